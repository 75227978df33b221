//! Taking a user out of every group.

use serde_json::json;

use super::{
    super::{
        super::{JumpCloud, groups::AUTOMATED, ids::USER},
        Named, Wish,
        accounts::gone_is_done,
        already,
        confirm::confirm,
    },
    Outcome, plan,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done, Effect, Permit},
    },
    proto::Struct,
};

/// How many ids a plan names.
const MAX_NAMED: usize = 100;

impl JumpCloud {
    /// Goes through the groups one by one, so that a stop or a failure leaves a clear line between done and not done;
    /// asking again goes on from there.
    pub(super) async fn remove_from_all_groups(
        &self,
        user: &str,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        self.changeable_user(user).await?;
        let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
        for group in self.groups_of(user).await? {
            // A membership may outlive its group for a moment.
            let Some(row) = self.find_group(&group).await? else {
                continue;
            };
            let ruled = row
                .membership_method
                .as_deref()
                .is_some_and(|method| method.trim().eq_ignore_ascii_case(AUTOMATED));
            if ruled { &mut dynamic } else { &mut fixed }.push(group);
        }
        let outcome = |effect, removed: &[String]| {
            Outcome::new(user, effect)
                .texts("removed_groups", removed)
                .texts("dynamic_groups", &dynamic)
        };
        if fixed.is_empty() {
            return Ok(outcome(already(change), &[]).done());
        }
        let named: Vec<&String> = fixed.iter().take(MAX_NAMED).collect();
        let plan = plan(
            "user.groups.remove_all",
            user,
            json!({"groups": fixed.len() + dynamic.len(), "removable": named}),
            json!({"groups": dynamic.len()}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned, &fixed).done());
        }
        let total = fixed.len();
        let mut request_ids = Vec::new();
        for (done, group) in fixed.iter().enumerate() {
            let percent = u8::try_from(done * 90 / total).unwrap_or(90);
            change
                .ledger
                .progress(percent, &format!("removed from {done} of {total} groups"));
            if change.cancel.is_cancelled() {
                return Err(if done == 0 {
                    Error::Cancelled
                } else {
                    Error::Halted {
                        what: format!(
                            "the change was stopped after user {user} was taken out of {done} of {total} groups; ask again \
                             for the rest"
                        ),
                    }
                });
            }
            let member = Named {
                kind: USER,
                id: user,
            };
            let answer = self.set_member(Wish::Revoke, group, member).await;
            match gone_is_done(answer) {
                Ok(request_id) => request_ids.extend(request_id),
                // The look at the end tells.
                Err(error) if error.may_have_been_applied() => {}
                Err(error) => return Err(error),
            }
        }
        change.ledger.progress(90, "reading the memberships back");
        let what = format!("removing user {user} from all groups");
        confirm(&what, Ok(None), || async {
            let left = self.groups_of(user).await?;
            Ok(fixed
                .iter()
                .all(|group| !left.contains(group))
                .then_some(()))
        })
        .await?;
        Ok(outcome(Effect::Changed, &fixed).request(request_ids).done())
    }
}
