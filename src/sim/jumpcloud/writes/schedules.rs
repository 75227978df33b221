//! Scheduled changes of state. They wait until somebody says what time it is.

use jiff::{Timestamp, civil};

use super::{
    Applied, filled, flag, invalid, list, nothing, object, required, user,
    users::{State, set_state},
};
use crate::sim::jumpcloud::{
    id::IdKind,
    serve::{Ask, Failure, Reply, Scheduled},
    tenant::{Job, Tenant},
};

pub(super) fn create(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let body = object(ask)?;
    let activate = match required(&body, "state")? {
        "ACTIVATED" => true,
        "SUSPENDED" => false,
        _ => return Err(invalid("state must be ACTIVATED or SUSPENDED")),
    };
    let date = moment(required(&body, "start_date")?)
        .ok_or_else(|| invalid("start_date must be a date-time"))?;
    let users = list(&body, "user_ids")?.ok_or_else(|| invalid("user_ids is required"))?;
    let users = users
        .iter()
        .map(|id| user(tenant, id.as_str()?))
        .collect::<Option<Vec<u32>>>()
        .filter(|users| !users.is_empty())
        .ok_or_else(|| invalid("user_ids must name users"))?;
    if flag(&body, "send_activation_emails")?.is_some() && !activate {
        let words = "send_activation_emails goes only with an activation";
        return Err(invalid(words));
    }
    if filled(&body, "activation_email_override")?.is_some() && (!activate || users.len() > 1) {
        let words = "activation_email_override goes only with the activation of one user";
        return Err(invalid(words));
    }

    let mut ids = Vec::new();
    let mut rows = Vec::new();
    for user in users {
        let id = tenant.detail_id(IdKind::Job);
        let job = Job {
            id,
            user,
            activate,
            date,
        };
        ids.push(id);
        ids.extend(tenant.users.row(user).map(|row| row.id));
        rows.extend(Scheduled::of(tenant, &job));
        tenant.jobs.push(job);
    }
    let reply = Reply::json(201, serde_json::to_vec(&rows).unwrap_or_default());
    let state = if activate { "ACTIVATED" } else { "SUSPENDED" };
    Ok(Applied::new(reply, ids, &[state]))
}

pub(super) fn cancel(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let id = ask.ids.id.and_then(|text| text.parse().ok());
    let place = tenant.jobs.iter().position(|job| Some(job.id) == id);
    let job = tenant.jobs.remove(place.ok_or(Failure::Status(404))?);
    Ok(Applied::new(nothing(), vec![job.id], &["delete"]))
}

/// A date-time with or without an offset; without one it is UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let local = || {
        let local: civil::DateTime = text.parse().ok()?;
        let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(zoned.timestamp())
    };
    text.parse().ok().or_else(local)
}

impl Tenant {
    /// Makes the scheduled changes whose time has come, and returns how many there were.
    pub fn run_due(&mut self, now: Timestamp) -> usize {
        let (due, later): (Vec<Job>, Vec<Job>) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition(|job| job.date <= now);
        self.jobs = later;
        for job in &due {
            if let Some(row) = self.users.row_mut(job.user) {
                let state = if job.activate {
                    State::Activated
                } else {
                    State::Suspended
                };
                set_state(row, state);
            }
        }
        self.touch();
        self.apply_rules();
        due.len()
    }
}
