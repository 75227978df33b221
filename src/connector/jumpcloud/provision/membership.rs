//! Who is a member of which user group.
//!
//! Whether somebody is a member is read from the side of the user (`/api/v2/users/{id}/memberof`): a person is in a few
//! dozen groups, which is one page, while a group may have any number of members. The filter of
//! `/api/v2/usergroups/{id}/membership` would be a call as well, but nothing tells an answer that was not filtered from
//! one that was. Invariant: a group whose rule decides alone is never written to.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, join};
use serde_json::json;

use super::{
    super::{
        JumpCloud,
        client::{Convention, List},
        groups::{AUTOMATED, METHOD, RULE, how_members_come},
        ids::{GROUP, USER, grant},
        profile::{clip, text_of},
        survey::Read,
        wire,
    },
    Named, Wish, already,
    confirm::confirm_edge,
    plan, planned,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done},
    },
    error::{Classify as _, Code},
    proto::connector as v2,
};

/// What is asked of a directory user before it is changed.
const PERSON_FIELDS: &str = "_id email firstname lastname admin";
/// How much of a rule an error repeats.
const MAX_RULE: usize = 512;

impl JumpCloud {
    /// Makes a user a member of a group, or no member any more.
    pub(super) async fn set_membership(
        &self,
        wish: Wish,
        group: Named<'_>,
        user: Named<'_>,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        let (resource, person, groups) = join!(
            self.get_group(group.id),
            self.person(user.id, "be a member of a group"),
            self.groups_of(user.id),
        );
        let (resource, _person, groups) = (resource?, person?, groups?);
        let profile = resource.profile.as_ref();
        let value = || match wish {
            Wish::Grant => {
                let annotations = how_members_come(profile);
                vec![grant(GROUP, group.id, USER, user.id, annotations)]
            }
            Wish::Revoke => Vec::new(),
        };
        let before = groups.contains(group.id);
        if before == wish.wants() {
            return Ok(Done::unwritten(value(), already(change)));
        }
        if text_of(profile, METHOD) == Some(AUTOMATED) {
            return Err(Error::Refused {
                what: format!(
                    "group {} ({}) is dynamic: its rule alone decides who is a member ({}). Change the rule or the \
                     attributes of user {} in JumpCloud, or make the user an exception there",
                    clip(&resource.display_name, 128),
                    group.id,
                    text_of(profile, RULE).map_or_else(
                        || "the rule cannot be read".to_owned(),
                        |rule| clip(rule, MAX_RULE)
                    ),
                    user.id
                ),
            });
        }

        let operation = match wish {
            Wish::Grant => "group.member.add",
            Wish::Revoke => "group.member.remove",
        };
        let state = |member: bool| json!({ "member": member });
        let plan = plan(operation, user, group, state(before), state(!before));
        if let Some(planned) = planned(&plan, change, value).await? {
            return Ok(planned);
        }
        let written = self.set_member(wish, group.id, user).await;
        let what = match wish {
            Wish::Grant => format!("adding user {} to group {}", user.id, group.id),
            Wish::Revoke => format!("removing user {} from group {}", user.id, group.id),
        };
        let look = || async {
            let groups = self.groups_of(user.id).await?;
            Ok(groups.contains(group.id) == wish.wants())
        };
        let request_id = confirm_edge(&what, written, look).await?;
        Ok(Done::written(value(), request_id))
    }

    /// Writes one membership, without asking before and looking afterwards.
    pub(super) async fn set_member(
        &self,
        wish: Wish,
        group: &str,
        user: Named<'_>,
    ) -> Result<Option<String>, Error> {
        self.set_edge(
            wish,
            "/api/v2/usergroups/{id}/members",
            group,
            user,
            "change the members of groups",
        )
        .await
    }

    /// The directory user with this id; `purpose` ends the sentence "an administrator cannot …".
    pub(super) async fn person(&self, id: &str, purpose: &str) -> Result<wire::SystemUser, Error> {
        match self.find_person(id).await? {
            Some(row) => Ok(row),
            None => Err(self.nobody(id, purpose).await),
        }
    }

    /// What to say about an id that is no directory user's; `purpose` as for [`JumpCloud::person`].
    pub(super) async fn nobody(&self, id: &str, purpose: &str) -> Error {
        let found = self
            .find(&[Read::Administrators], || self.get_administrator(id))
            .await;
        match found {
            Ok(Some(_)) => Error::Refused {
                what: format!(
                    "user {} is an administrator without a directory account, who cannot {purpose}: name the person's \
                     directory user instead, or make one first",
                    clip(id, 64)
                ),
            },
            // A key that may not read administrators has said enough about directory users.
            Err(error) if error.code() != Code::PermissionDenied => error,
            Ok(None) | Err(_) => Error::NotFound {
                what: format!("user {}", clip(id, 64)),
            },
        }
    }

    /// The directory user with this id, if there is one.
    pub(super) async fn find_person(&self, id: &str) -> Result<Option<wire::SystemUser>, Error> {
        self.find_directory_user(id, PERSON_FIELDS).await
    }

    /// The ids of the groups that a directory user is a member of.
    pub(super) async fn groups_of(&self, user: &str) -> Result<BTreeSet<String>, Error> {
        let mut pages = self.client.pages::<wire::GraphObject>(List {
            template: "/api/v2/users/{id}/memberof",
            ids: vec![user.to_owned()],
            query: Vec::new(),
            convention: Convention::Array,
        });
        let mut groups = BTreeSet::new();
        while let Some(rows) = pages.next().await.transpose()? {
            let is_group = |row: &wire::GraphObject| {
                matches!(row.kind.as_deref(), None | Some("user_group" | "group"))
            };
            groups.extend(rows.into_iter().filter(is_group).filter_map(|row| row.id));
        }
        Ok(groups)
    }
}
