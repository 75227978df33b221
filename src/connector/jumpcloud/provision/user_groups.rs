//! User groups: making and deleting them.
//!
//! Names are unique in JumpCloud without regard to case, and its filters are not, so the whole list is compared before a
//! group is made.

use futures_util::StreamExt;
use serde_json::json;

use super::{
    super::{
        JumpCloud,
        client::{Convention, List, Method, Repeat},
        ids::GROUP,
        profile::{clip, filled, text_of},
        wire,
    },
    accounts::gone_is_done,
    already,
    confirm::{confirm, settle},
    explained, plan_for, planned,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done},
    },
    error::{Classify, Code},
    proto::connector as v2,
};

const CREATE: &str = "group.create";
const MAX_NAME: usize = 1024;
const MAX_DESCRIPTION: usize = 2048;

impl JumpCloud {
    /// Makes a resource; only groups can be made.
    pub(super) async fn make_resource(
        &self,
        resource: &v2::Resource,
        change: Change<'_>,
    ) -> Result<Done<v2::Resource>, Error> {
        let kind = resource.id.as_ref().map_or("", |id| &id.resource_type);
        if kind != GROUP {
            return Err(Error::Unsupported {
                what: format!(
                    "only resources of type group can be made, not of type {}",
                    clip(kind, 64)
                ),
            });
        }
        let name = resource.display_name.trim();
        let length = name.chars().count();
        if !(1..=MAX_NAME).contains(&length) || name.chars().any(char::is_control) {
            return Err(Error::Invalid {
                what: format!(
                    "resource.display_name has {length} characters or holds control characters; the name of a group has 1 \
                     to {MAX_NAME} and none of those"
                ),
            });
        }
        let description = filled(Some(&resource.description))
            .or_else(|| text_of(resource.profile.as_ref(), "description"))
            .unwrap_or_default()
            .trim();
        if description.len() > MAX_DESCRIPTION {
            return Err(Error::Invalid {
                what: format!(
                    "resource.description has {} bytes; give at most {MAX_DESCRIPTION}",
                    description.len()
                ),
            });
        }
        let ours = change.earlier.is_some_and(|plan| plan.operation == CREATE);
        let existing = if ours {
            settle(|| self.group_named(name)).await?
        } else {
            self.group_named(name).await?
        };
        if let Some(id) = existing {
            if !ours {
                return Err(taken(&id));
            }
            return Ok(Done::written(self.get_group(&id).await?, None));
        }
        let plan = plan_for(
            CREATE,
            format!("{GROUP}:new"),
            json!({"exists": false}),
            json!({"exists": true, "description": !description.is_empty()}),
        );
        let mut body = json!({"name": name});
        if let (false, Some(body)) = (description.is_empty(), body.as_object_mut()) {
            body.insert("description".to_owned(), description.into());
        }
        let as_planned = || {
            let row = serde_json::from_value::<wire::UserGroup>(body.clone()).unwrap_or_default();
            super::super::groups::resource(&row, "planned")
        };
        if let Some(planned) = planned(&plan, change, as_planned).await? {
            return Ok(planned);
        }
        let written = self
            .client
            .write::<_, Option<wire::UserGroup>>(
                Method::Post,
                "/api/v2/usergroups",
                &[],
                Some(&body),
                Repeat::UnlessSent,
            )
            .await
            .map_err(|error| explained(error, "create user groups"));
        let mut request_id = None;
        let answered = match written {
            Ok(written) => {
                request_id = written.request_id;
                let row = written.value.as_ref();
                row.and_then(wire::UserGroup::id).map(str::to_owned)
            }
            Err(error) if error.may_have_been_applied() => {
                match settle(|| self.group_named(name)).await {
                    Ok(Some(id)) => Some(id),
                    Ok(None) | Err(_) => return Err(error),
                }
            }
            Err(error) if error.code() == Code::AlreadyExists => {
                return Err(match self.group_named(name).await? {
                    Some(id) => taken(&id),
                    None => error,
                });
            }
            Err(error) => return Err(error),
        };
        let hidden = || Error::Unconfirmed {
            what:
                "POST /api/v2/usergroups was accepted, but the group does not show yet: ask again"
                    .to_owned(),
        };
        let id = match answered {
            Some(id) => id,
            None => settle(|| self.group_named(name))
                .await?
                .ok_or_else(hidden)?,
        };
        let made = settle(|| async { super::super::absent(self.get_group(&id).await) });
        Ok(Done::written(made.await?.ok_or_else(hidden)?, request_id))
    }

    /// Deletes a resource: a group, or the account of a user.
    pub(super) async fn remove_resource(
        &self,
        id: &v2::ResourceId,
        change: Change<'_>,
    ) -> Result<Done<()>, Error> {
        use super::super::{ids::USER, usable};

        match id.resource_type.as_str() {
            USER => self.delete_user(usable(USER, &id.resource)?, change).await,
            GROUP => {
                self.delete_group(usable(GROUP, &id.resource)?, change)
                    .await
            }
            other => Err(Error::Unsupported {
                what: format!(
                    "only users and groups can be deleted, not resources of type {}",
                    clip(other, 64)
                ),
            }),
        }
    }

    async fn delete_group(&self, id: &str, change: Change<'_>) -> Result<Done<()>, Error> {
        let look = || self.find_group(id);
        if look().await?.is_none() {
            return Ok(Done::unwritten((), already(change)));
        }
        let plan = plan_for(
            "group.delete",
            format!("{GROUP}:{id}"),
            json!({"exists": true}),
            json!({"exists": false}),
        );
        if let Some(planned) = planned(&plan, change, || ()).await? {
            return Ok(planned);
        }
        let written = self
            .order(
                Method::Delete,
                "/api/v2/usergroups/{id}",
                &[id],
                "delete user groups",
            )
            .await;
        let what = format!("deleting group {id}");
        let ((), request_id) = confirm(&what, gone_is_done(written), || async {
            Ok(look().await?.is_none().then_some(()))
        })
        .await?;
        Ok(Done::written((), request_id))
    }

    /// The id of the group with this name.
    async fn group_named(&self, name: &str) -> Result<Option<String>, Error> {
        let key = name.to_lowercase();
        let mut pages = self.client.pages::<wire::UserGroup>(List {
            template: "/api/v2/usergroups",
            ids: Vec::new(),
            query: vec![("sort", "name".to_owned()), ("fields", "name".to_owned())],
            convention: Convention::Array,
        });
        while let Some(rows) = pages.next().await.transpose()? {
            let found = rows.iter().find(|row| {
                row.name
                    .as_deref()
                    .is_some_and(|name| name.trim().to_lowercase() == key)
            });
            if let Some(id) = found.and_then(wire::UserGroup::id) {
                return Ok(Some(id.to_owned()));
            }
        }
        Ok(None)
    }
}

fn taken(id: &str) -> Error {
    Error::Refused {
        what: format!(
            "group {id} has this name already; names of groups differ by more than upper and lower case"
        ),
    }
}
