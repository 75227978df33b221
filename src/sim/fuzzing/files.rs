//! Files that anybody may have written: a sync file and the configuration.

use std::io::Write as _;

use secrecy::ExposeSecret as _;

use super::tells_nothing;
use crate::{
    c1z::{self, GrantFilter, Limits, MAGIC_V1, Reader, ResourceFilter, SyncRun},
    config::{self, Flags, ManualSource},
    error::chain,
};

/// What a file of the corpus may become.
const DECODED: u64 = 4 << 20;
/// Rows of one listing that are looked at.
const ROWS: usize = 2000;

/// A whole file, envelope and all.
pub fn c1z_envelope(data: &[u8]) {
    read(data);
}

/// A database, which is put into a good envelope first.
pub fn c1z_database(data: &[u8]) {
    let mut file = MAGIC_V1.to_vec();
    // The fastest level: what is looked at is the database.
    let packed = zstd::bulk::compress(data, -7).expect("memory compresses");
    file.extend(packed);
    read(&file);
}

fn read(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sync.c1z");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(data))
        .expect("a file");
    let limits = Limits {
        decoded_bytes: DECODED,
    };
    let seen = Reader::open_with(&path, folder.path(), limits).and_then(|reader| {
        assert!(reader.decoded_bytes() <= DECODED);
        walk(&reader)
    });
    if let Err(error) = seen {
        let text = chain(&error);
        assert!(text.len() < 8192, "an error of {} bytes", text.len());
    }
    std::fs::remove_file(&path).expect("the file is still there");
    let left = std::fs::read_dir(folder.path()).expect("the folder is still there");
    assert_eq!(left.count(), 0, "a file is left behind");
}

/// Everything that a reader can be asked.
fn walk(reader: &Reader) -> Result<(), c1z::Error> {
    let sync = match reader.latest_sync() {
        Ok(sync) => sync,
        Err(_) => match reader.syncs()?.into_iter().next() {
            Some(unfinished) => unfinished,
            None => return Ok(()),
        },
    };
    let SyncRun { sync_id: id, .. } = &sync;
    reader.stats(id)?;
    for kind in reader.resource_types(id).take(ROWS) {
        kind?;
    }
    let mut first = None;
    for resource in reader.resources(id, ResourceFilter::All).take(ROWS) {
        let resource = resource?;
        first = first.or(resource.id);
    }
    if let Some(resource) = &first {
        reader.resource(id, resource)?;
        let kind = resource.resource_type.as_str();
        for filter in [ResourceFilter::Type(kind), ResourceFilter::Parent(resource)] {
            for row in reader.resources(id, filter).take(ROWS) {
                row?;
            }
        }
    }
    let mut first_entitlement = None;
    for entitlement in reader.entitlements(id, first.as_ref()).take(ROWS) {
        entitlement?;
    }
    for entitlement in reader.entitlements(id, None).take(ROWS) {
        let entitlement = entitlement?;
        first_entitlement = first_entitlement.or(Some(entitlement.id));
    }
    let entitlement = first_entitlement.unwrap_or_default();
    reader.entitlement(id, &entitlement)?;
    let mut filters = vec![GrantFilter::All, GrantFilter::Entitlement(&entitlement)];
    if let Some(resource) = &first {
        filters.push(GrantFilter::ResourceType(&resource.resource_type));
        filters.push(GrantFilter::Resource(resource));
        filters.push(GrantFilter::Principal(resource));
    }
    for filter in filters {
        for grant in reader.grants(id, filter).take(ROWS) {
            let grant = grant?.into_connector_grant();
            reader.grant(id, &grant.id)?;
        }
    }
    Ok(())
}

/// A configuration file beside an API key in the environment.
pub fn config_file(data: &[u8]) {
    const MARK: &str = "SECRETSEED";
    const PATH: &str = "/etc/baton.yaml";
    let source = ManualSource::new()
        .with_variable("BATON_CONFIG_PATH", PATH)
        .with_directory("/work", true)
        .with_file("/run/secret", "SECRETSEED-from-a-file\n")
        .with_file(PATH, data);
    match config::resolve(&Flags::default(), &source) {
        Ok(config) => {
            let shown = format!("{config:?} {}", config.describe());
            for secret in config.secrets() {
                let secret = secret.expose_secret();
                // A value that stands in the file twice may be shown as the other one.
                let is_known = secret.starts_with(MARK) && secret.len() > MARK.len() + 8;
                let times = String::from_utf8_lossy(data).matches(secret).count();
                assert!(
                    !(is_known && times <= 1 && shown.contains(secret)),
                    "the configuration shows a secret"
                );
            }
        }
        Err(error) => {
            for problem in error.problems() {
                tells_nothing(problem, "");
            }
            assert!(
                error.problems().len() <= 1000,
                "{} problems",
                error.problems().len()
            );
        }
    }
}
