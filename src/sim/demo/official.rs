//! How many calls the official connector makes for a tenant, by its paging.
//!
//! Two releases are told apart: that of 2025-01 reads pages of 10 and caches managers, the newest reads pages of 100
//! but asks for the manager and the roles of every single user. Both ask for one page more than there is.

/// The page size of `/api/users` unless another is asked for, which neither release does.
const ADMINISTRATORS: u64 = 10;

/// What decides about the number of calls.
#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub(super) users: u64,
    pub(super) users_with_manager: u64,
    pub(super) managers: u64,
    pub(super) administrators: u64,
    pub(super) administrators_without_user: u64,
    /// The number of members of each group.
    pub(super) groups: Vec<u64>,
    pub(super) apps: Vec<App>,
}

/// An application and what is bound to it.
#[derive(Debug, Clone, Default)]
pub(super) struct App {
    /// The number of members of each bound group.
    pub(super) groups: Vec<u64>,
    /// Users bound directly.
    pub(super) users: u64,
}

/// Calls for a list: full pages, and the empty one that ends it.
fn list(rows: u64, page: u64) -> u64 {
    rows.div_ceil(page) + 1
}

impl Tenant {
    fn shared(&self, page: u64) -> u64 {
        let members = |groups: &[u64]| groups.iter().map(|&rows| list(rows, page)).sum::<u64>();
        let apps: u64 = self
            .apps
            .iter()
            .map(|app| {
                list(app.groups.len() as u64, page) + members(&app.groups) + list(app.users, page)
            })
            .sum();
        let validation = 1;
        let administration = 2 * list(self.administrators, ADMINISTRATORS);
        validation
            + administration
            + list(self.users, page)
            + list(self.groups.len() as u64, page)
            + members(&self.groups)
            + list(self.apps.len() as u64, page)
            + apps
    }

    /// Calls of the release of 2025-01.
    pub(super) fn calls_2025_01(&self) -> u64 {
        self.shared(10)
            + self.managers
            + list(self.administrators, ADMINISTRATORS)
            + self.administrators
            + 2 * self.administrators_without_user
    }

    /// Calls of the newest release.
    pub(super) fn calls_newest(&self) -> u64 {
        self.shared(100) + self.users_with_manager + self.users + self.administrators_without_user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_5000_users_comes_out() {
        let app = App {
            groups: vec![60; 4],
            users: 5,
        };
        let tenant = Tenant {
            users: 5_000,
            users_with_manager: 4_800,
            managers: 400,
            administrators: 15,
            administrators_without_user: 5,
            groups: vec![60; 200],
            apps: vec![app; 80],
        };
        assert_eq!(tenant.calls_2025_01(), 4_926);
        assert_eq!(tenant.calls_newest(), 11_228);
    }

    #[test]
    fn even_an_empty_tenant_is_asked_for_every_list() {
        assert_eq!(Tenant::default().calls_newest(), 1 + 2 + 1 + 1 + 1);
    }
}
