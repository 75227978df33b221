//! What ConductorOne knows of a directory: the objects of an uploaded file, which its tasks name.

use std::{path::Path, sync::Mutex};

use anyhow::Context as _;
use prost::{Message, Name};
use rusqlite::{Connection, OpenFlags, Params, params};

use super::upload;
use crate::{proto::connector as v2, supervisor::lock};

/// An opened file. Its methods block for a moment.
#[derive(Debug)]
pub struct Synced {
    connection: Mutex<Connection>,
    /// Deleted with this.
    _database: tempfile::NamedTempFile,
}

impl Synced {
    /// Unpacks and opens a file; the file itself is not needed afterwards.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        let database = tempfile::NamedTempFile::new().context("making room for the database")?;
        upload::unpack(file, database.as_file())?;
        let connection = Connection::open_with_flags(
            database.path(),
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .context("the unpacked file does not open as SQLite")?;
        Ok(Self {
            connection: Mutex::new(connection),
            _database: database,
        })
    }

    /// A resource.
    pub fn resource(&self, resource_type: &str, id: &str) -> anyhow::Result<v2::Resource> {
        self.one(
            "SELECT data FROM v1_resources WHERE external_id = ?1",
            [format!("{resource_type}:{id}")],
        )
    }

    /// The first resource of a type with this name for people.
    pub fn named(&self, resource_type: &str, name: &str) -> anyhow::Result<v2::Resource> {
        self.all::<v2::Resource>(
            "SELECT data FROM v1_resources WHERE resource_type_id = ?1 ORDER BY id",
            [resource_type],
        )?
        .into_iter()
        .find(|resource| resource.display_name == name)
        .with_context(|| {
            format!("the file has no resource of type {resource_type} with the name {name:?}")
        })
    }

    /// An entitlement.
    pub fn entitlement(&self, id: &str) -> anyhow::Result<v2::Entitlement> {
        self.one(
            "SELECT data FROM v1_entitlements WHERE external_id = ?1",
            [id],
        )
    }

    /// The grant of an entitlement to a principal.
    pub fn grant(
        &self,
        entitlement: &str,
        principal: &v2::ResourceId,
    ) -> anyhow::Result<v2::Grant> {
        self.one(
            "SELECT data FROM v1_grants WHERE entitlement_id = ?1
             AND principal_resource_type_id = ?2 AND principal_resource_id = ?3 ORDER BY id",
            params![entitlement, principal.resource_type, principal.resource],
        )
    }

    /// Every grant of an entitlement, inherited ones included.
    pub fn grants(&self, entitlement: &str) -> anyhow::Result<Vec<v2::Grant>> {
        self.all(
            "SELECT data FROM v1_grants WHERE entitlement_id = ?1 ORDER BY id",
            [entitlement],
        )
    }

    /// Every resource of a type.
    pub fn resources(&self, resource_type: &str) -> anyhow::Result<Vec<v2::Resource>> {
        self.all(
            "SELECT data FROM v1_resources WHERE resource_type_id = ?1 ORDER BY id",
            [resource_type],
        )
    }

    fn one<M: Message + Name + Default>(
        &self,
        query: &str,
        parameters: impl Params,
    ) -> anyhow::Result<M> {
        self.all(query, parameters)?
            .into_iter()
            .next()
            .with_context(|| format!("the file has no such {}", M::NAME))
    }

    fn all<M: Message + Name + Default>(
        &self,
        query: &str,
        parameters: impl Params,
    ) -> anyhow::Result<Vec<M>> {
        let connection = lock(&self.connection);
        let mut query = connection.prepare_cached(query)?;
        let mut rows = query.query(parameters)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let data: Vec<u8> = row.get(0)?;
            found.push(
                M::decode(data.as_slice())
                    .with_context(|| format!("a {} of the file does not decode", M::NAME))?,
            );
        }
        Ok(found)
    }
}
