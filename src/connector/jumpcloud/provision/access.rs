//! Who may use which application.
//!
//! Only direct bindings are written. Whether there is one is read from the side of the principal
//! (`/api/v2/users/{id}/associations`, `/api/v2/usergroups/{id}/associations`), which has few applications, while an
//! application may have any number of users. Access that comes through a group is no binding of the user, so it cannot be
//! taken from the user; the error names the groups. The synthetic application of JumpCloud's own administration has no
//! bindings at all.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, join, try_join};
use serde_json::json;

use super::{
    super::{
        JumpCloud,
        client::{Convention, List},
        groups::expandable,
        ids::{ADMINISTRATION_APP, APP, GROUP, grant},
        profile::clip,
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
    proto::connector as v2,
};

/// How many groups an error names.
const MAX_NAMED: usize = 3;

impl JumpCloud {
    /// Binds a user or a group to an application, or unbinds it.
    pub(super) async fn set_access(
        &self,
        wish: Wish,
        app: Named<'_>,
        whom: Named<'_>,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        if app.id == ADMINISTRATION_APP {
            return self.set_administration(wish, app, whom, change).await;
        }
        let exists = async {
            if whom.kind == GROUP {
                self.get_group(whom.id).await.map(drop)
            } else {
                self.person(whom.id, "use applications").await.map(drop)
            }
        };
        let (resource, exists, apps) = join!(self.get_app(app.id), exists, self.apps_of(whom));
        let (_resource, (), apps) = (resource?, exists?, apps?);
        let value = || match wish {
            Wish::Grant => {
                let annotations = if whom.kind == GROUP {
                    vec![expandable(whom.id)]
                } else {
                    Vec::new()
                };
                vec![grant(APP, app.id, whom.kind, whom.id, annotations)]
            }
            Wish::Revoke => Vec::new(),
        };
        let before = apps.contains(app.id);
        if before == wish.wants() {
            // After an earlier attempt the binding is gone, whatever else gives access.
            if wish == Wish::Revoke && whom.kind != GROUP && change.earlier.is_none() {
                self.refuse_inherited(app.id, whom.id).await?;
            }
            return Ok(Done::unwritten(value(), already(change)));
        }

        let operation = match wish {
            Wish::Grant => "app.access.add",
            Wish::Revoke => "app.access.remove",
        };
        let state = |access: bool| json!({ "access": access });
        let plan = plan(operation, whom, app, state(before), state(!before));
        if let Some(planned) = planned(&plan, change, value).await? {
            return Ok(planned);
        }
        let written = self
            .set_edge(
                wish,
                "/api/v2/applications/{id}/associations",
                app.id,
                whom,
                "change who may use applications",
            )
            .await;
        let what = match wish {
            Wish::Grant => format!(
                "binding {} {} to application {}",
                whom.kind, whom.id, app.id
            ),
            Wish::Revoke => format!(
                "unbinding {} {} from application {}",
                whom.kind, whom.id, app.id
            ),
        };
        let look = || async {
            let apps = self.apps_of(whom).await?;
            Ok(apps.contains(app.id) == wish.wants())
        };
        let request_id = confirm_edge(&what, written, look).await?;
        Ok(Done::written(value(), request_id))
    }

    /// The ids of the applications that a user or group is bound to directly.
    async fn apps_of(&self, whom: Named<'_>) -> Result<BTreeSet<String>, Error> {
        let template = if whom.kind == GROUP {
            "/api/v2/usergroups/{id}/associations"
        } else {
            "/api/v2/users/{id}/associations"
        };
        self.bound(template, whom.id, "application").await
    }

    /// The far ends of the edges of an object to one kind of target.
    async fn bound(
        &self,
        template: &'static str,
        id: &str,
        target: &str,
    ) -> Result<BTreeSet<String>, Error> {
        let mut pages = self.client.pages::<wire::Edge>(List {
            template,
            ids: vec![id.to_owned()],
            query: vec![("targets", target.to_owned())],
            convention: Convention::Array,
        });
        let mut ends = BTreeSet::new();
        while let Some(rows) = pages.next().await.transpose()? {
            let of_target =
                |end: &wire::GraphObject| end.kind.as_deref().is_none_or(|kind| kind == target);
            let found = rows.into_iter().filter_map(|row| row.to).filter(of_target);
            ends.extend(found.filter_map(|end| end.id));
        }
        Ok(ends)
    }

    /// Refuses to take from a user what a group of the user gives.
    async fn refuse_inherited(&self, app: &str, user: &str) -> Result<(), Error> {
        let (givers, groups) = try_join!(
            self.bound("/api/v2/applications/{id}/associations", app, "user_group"),
            self.groups_of(user),
        )?;
        let shared: Vec<&String> = givers.intersection(&groups).collect();
        if shared.is_empty() {
            return Ok(());
        }
        let mut names = Vec::new();
        for id in shared.iter().take(MAX_NAMED) {
            let name = super::super::absent(self.get_group(id).await)?
                .map_or_else(String::new, |group| clip(&group.display_name, 128));
            names.push(format!("{name} ({id})"));
        }
        let more = shared.len().saturating_sub(names.len());
        if more > 0 {
            names.push(format!("{more} more"));
        }
        Err(Error::Refused {
            what: format!(
                "user {user} has access to application {app} through {} {}, not by a binding of its own: take the user \
                 out of the group, or the application from the group",
                if shared.len() == 1 { "group" } else { "groups" },
                names.join(", ")
            ),
        })
    }
}
