//! Changes to JumpCloud.
//!
//! This file only finds the room for a request: what it means to change each thing is in the folder.

use async_trait::async_trait;

use super::JumpCloud;
use crate::{
    connector::{
        Error,
        provision::{Account, Change, Credential, Done, NewAccount, Provisioner, Request},
    },
    crypto::seal::Plaintext,
    proto::{Struct, connector as v2},
};

#[async_trait]
impl Provisioner for JumpCloud {
    fn keys(&self, _request: Request<'_>) -> Vec<String> {
        Vec::new()
    }

    async fn grant(
        &self,
        _entitlement: &v2::Entitlement,
        _principal: &v2::Resource,
        _change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        Err(unsupported("granting"))
    }

    async fn revoke(&self, _grant: &v2::Grant, _change: Change<'_>) -> Result<Done<()>, Error> {
        Err(unsupported("revoking"))
    }

    async fn create_account(
        &self,
        _resource_type_id: &str,
        _account: &NewAccount,
        _change: Change<'_>,
    ) -> Result<Done<Account>, Error> {
        Err(unsupported("creating accounts"))
    }

    async fn create_resource(
        &self,
        _resource: &v2::Resource,
        _change: Change<'_>,
    ) -> Result<Done<v2::Resource>, Error> {
        Err(unsupported("creating resources"))
    }

    async fn delete_resource(
        &self,
        _id: &v2::ResourceId,
        _change: Change<'_>,
    ) -> Result<Done<()>, Error> {
        Err(unsupported("deleting resources"))
    }

    async fn rotate_credential(
        &self,
        _id: &v2::ResourceId,
        _credential: &Credential,
        _force_change: bool,
        _change: Change<'_>,
    ) -> Result<Done<Vec<Plaintext>>, Error> {
        Err(unsupported("rotating credentials"))
    }

    fn action_schemas(&self) -> Vec<v2::BatonActionSchema> {
        Vec::new()
    }

    async fn invoke(
        &self,
        _name: &str,
        _resource_type_id: &str,
        _arguments: &Struct,
        _change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        Err(unsupported("actions"))
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        what: format!("this connector does not support {what}"),
    }
}
