//! Baton ids of resources: `bid:r:[<parent type>/<parent id>/]<type>/<id>`.
//!
//! A backslash before `\`, `/` or `:` takes away its meaning.

use crate::proto::connector as v2;

/// The resource that a Baton id names, with its parent where it has one. Errors say what is wrong, without the id.
pub fn parse_resource(text: &str) -> Result<v2::Resource, String> {
    let rest = text
        .strip_prefix("bid:")
        .ok_or_else(|| "does not begin with bid:r:".to_owned())?;
    let rest = rest
        .strip_prefix("r:")
        .ok_or_else(|| "is no id of a resource, which begins with bid:r:".to_owned())?;
    let parts = split(rest)?;
    if parts.iter().any(String::is_empty) {
        return Err("has an empty part between slashes".to_owned());
    }
    match parts.as_slice() {
        [kind, id] => Ok(v2::Resource {
            id: Some(resource_id(kind, id)),
            ..v2::Resource::default()
        }),
        [parent_kind, parent_id, kind, id] => Ok(v2::Resource {
            id: Some(resource_id(kind, id)),
            parent_resource_id: Some(resource_id(parent_kind, parent_id)),
            ..v2::Resource::default()
        }),
        other => Err(format!(
            "has {} parts between slashes, where type/id or parent type/parent id/type/id is expected",
            other.len()
        )),
    }
}

fn resource_id(kind: &str, id: &str) -> v2::ResourceId {
    v2::ResourceId {
        resource_type: kind.to_owned(),
        resource: id.to_owned(),
        ..v2::ResourceId::default()
    }
}

fn split(text: &str) -> Result<Vec<String>, String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | '/' | ':')) => part.push(escaped),
                Some(_) => {
                    return Err(
                        "has a backslash before a character that needs none (only \\, / and : do)"
                            .to_owned(),
                    );
                }
                None => return Err("ends in a lone backslash".to_owned()),
            },
            '/' => parts.push(std::mem::take(&mut part)),
            ':' => return Err("has a colon inside a part; write it as \\:".to_owned()),
            other => part.push(other),
        }
    }
    parts.push(part);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(parts: &[String]) -> String {
        let escaped: Vec<_> = parts
            .iter()
            .map(|part| {
                part.replace('\\', "\\\\")
                    .replace('/', "\\/")
                    .replace(':', "\\:")
            })
            .collect();
        format!("bid:r:{}", escaped.join("/"))
    }

    #[test]
    fn an_id_without_a_parent_names_type_and_id() {
        let resource = parse_resource("bid:r:user/1234").unwrap();
        assert_eq!(resource.id, Some(resource_id("user", "1234")));
        assert_eq!(resource.parent_resource_id, None);
    }

    #[test]
    fn an_id_with_a_parent_names_both() {
        let resource = parse_resource("bid:r:org/90\\:12/group/a\\/b\\\\c").unwrap();
        assert_eq!(resource.id, Some(resource_id("group", "a/b\\c")));
        assert_eq!(
            resource.parent_resource_id,
            Some(resource_id("org", "90:12"))
        );
    }

    #[test]
    fn every_malformed_id_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "bid:r:"),
            ("user/1", "bid:r:"),
            ("bid:e:user/1:member", "no id of a resource"),
            ("bid:r:", "empty part"),
            ("bid:r:user", "1 parts"),
            ("bid:r:user/", "empty part"),
            ("bid:r:a/b/c", "3 parts"),
            ("bid:r:a/b/c/d/e", "5 parts"),
            ("bid:r:user/1:member", "colon"),
            ("bid:r:user/1\\", "lone backslash"),
            ("bid:r:user/\\1", "needs none"),
        ] {
            let problem = parse_resource(text).unwrap_err();
            assert!(problem.contains(reason), "{text}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(parts in prop::collection::vec(".{1,12}", 4)) {
            let resource = parse_resource(&written(&parts)).unwrap();
            prop_assert_eq!(resource.id, Some(resource_id(&parts[2], &parts[3])));
            prop_assert_eq!(
                resource.parent_resource_id,
                Some(resource_id(&parts[0], &parts[1]))
            );
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            drop(parse_resource(&text));
            drop(parse_resource(&format!("bid:r:{text}")));
        }
    }
}
