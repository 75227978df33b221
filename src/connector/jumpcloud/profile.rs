//! Text from JumpCloud made safe for ConductorOne: profiles, names, descriptions, dates.
//!
//! Invariants: nothing built here holds a NUL character; a display name has at most 1,024 bytes, a description at most
//! 2,048, a profile text at most 4,096; cuts fall between characters.

use crate::proto::{
    self, Kind, Struct, Timestamp, Value, bool_value, list_value, number_value, string_value,
};

const MAX_NAME: usize = 1024;
const MAX_DESCRIPTION: usize = 2048;
const MAX_TEXT: usize = 4096;
const MAX_KEY: usize = 256;

/// A profile under construction; empty texts and missing values are left out.
#[derive(Debug, Default)]
pub(super) struct Profile(Struct);

impl Profile {
    pub(super) fn text(&mut self, key: &str, text: Option<&str>) -> &mut Self {
        if let Some(text) = filled(text) {
            self.value(key, string_value(clip(text, MAX_TEXT)));
        }
        self
    }

    pub(super) fn flag(&mut self, key: &str, flag: Option<bool>) -> &mut Self {
        if let Some(flag) = flag {
            self.value(key, bool_value(flag));
        }
        self
    }

    pub(super) fn count(&mut self, key: &str, count: usize) -> &mut Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.value(key, number_value(f64::from(count)))
    }

    #[expect(single_use_lifetimes, reason = "it cannot be left out here")]
    pub(super) fn list<'a>(
        &mut self,
        key: &str,
        items: impl Iterator<Item = &'a str>,
    ) -> &mut Self {
        let items: Vec<Value> = items
            .map(|item| string_value(clip(item, MAX_TEXT)))
            .collect();
        if !items.is_empty() {
            self.value(key, list_value(items));
        }
        self
    }

    /// A list of objects; objects without content are left out.
    pub(super) fn objects(&mut self, key: &str, items: impl Iterator<Item = Profile>) -> &mut Self {
        let items: Vec<Value> = items
            .filter(|item| !item.is_empty())
            .map(|item| Value {
                kind: Some(Kind::StructValue(item.0)),
            })
            .collect();
        if !items.is_empty() {
            self.value(key, list_value(items));
        }
        self
    }

    pub(super) fn value(&mut self, key: &str, value: Value) -> &mut Self {
        self.0.fields.insert(clip(key, MAX_KEY), value);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.fields.is_empty()
    }

    pub(super) fn into_struct(self) -> Struct {
        self.0
    }
}

/// A text of a profile; `None` when the key is missing or holds something else.
pub(super) fn text_of<'a>(profile: Option<&'a Struct>, key: &str) -> Option<&'a str> {
    proto::text_of(profile?, key)
}

/// The text, unless it is blank.
pub(super) fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| {
        !text
            .trim_matches(|c: char| c.is_whitespace() || c == '\0')
            .is_empty()
    })
}

/// The first name that is not blank, made safe; `id` when all are.
#[expect(single_use_lifetimes, reason = "it cannot be left out here")]
pub(super) fn display_name<'a>(
    candidates: impl IntoIterator<Item = Option<&'a str>>,
    id: &str,
) -> String {
    let name = candidates
        .into_iter()
        .find_map(filled)
        .map_or(id, str::trim);
    clip(name, MAX_NAME)
}

/// Given and family name with one space between, without blanks around.
pub(super) fn full_name(given: Option<&str>, family: Option<&str>) -> String {
    let parts: Vec<&str> = [given, family]
        .into_iter()
        .filter_map(filled)
        .map(str::trim)
        .collect();
    parts.join(" ")
}

/// A description, made safe.
pub(super) fn description(text: Option<&str>) -> String {
    clip(filled(text).unwrap_or_default(), MAX_DESCRIPTION)
}

/// A display name made of a name and words around it; the name is cut so that the whole fits.
pub(super) fn phrase(before: &str, name: &str, after: &str) -> String {
    let room = MAX_NAME.saturating_sub(before.len() + after.len());
    format!("{before}{}{after}", clip(name, room))
}

/// The text without NUL characters, cut to at most `max` bytes between two characters.
pub(super) fn clip(text: &str, max: usize) -> String {
    let mut clipped: String = if text.contains('\0') {
        text.chars()
            .filter(|character| *character != '\0')
            .collect()
    } else {
        text.to_owned()
    };
    if clipped.len() > max {
        clipped.truncate(clipped.floor_char_boundary(max));
    }
    clipped
}

/// An RFC 3339 date; `None` when the text is not one, or lies outside the years that protobuf knows (1 to 9999).
pub(super) fn timestamp(text: Option<&str>) -> Option<Timestamp> {
    let instant: jiff::Timestamp = filled(text)?.trim().parse().ok()?;
    let first = jiff::Timestamp::constant(-62_135_596_800, 0);
    (instant >= first).then(|| {
        // Protobuf counts nanoseconds forwards, also before 1970.
        let (seconds, nanos) = (instant.as_second(), instant.subsec_nanosecond());
        if nanos < 0 {
            Timestamp {
                seconds: seconds - 1,
                nanos: nanos + 1_000_000_000,
            }
        } else {
            Timestamp { seconds, nanos }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_fall_back_and_blank_ones_do_not_count() {
        assert_eq!(
            display_name([None, Some("  "), Some(" Avery ")], "id"),
            "Avery"
        );
        assert_eq!(display_name([None, Some("")], "id"), "id");
        assert_eq!(full_name(Some(" "), Some("Fixture")), "Fixture");
        assert_eq!(full_name(None, None), "");
    }

    #[test]
    fn dates_are_read_with_and_without_fraction_and_others_left_out() {
        let cases = [
            (
                Some("2024-03-05T09:12:44.120Z"),
                Some((1_709_629_964, 120_000_000)),
            ),
            (Some("2024-03-05T09:12:44Z"), Some((1_709_629_964, 0))),
            (Some("2024-03-05T10:12:44+01:00"), Some((1_709_629_964, 0))),
            (Some("1969-12-31T23:59:59.5Z"), Some((-1, 500_000_000))),
            (Some("-000500-01-01T00:00:00Z"), None),
            (Some("yesterday"), None),
            (Some(""), None),
            (None, None),
        ];
        for (text, expected) in cases {
            let read = timestamp(text).map(|read| (read.seconds, read.nanos));
            assert_eq!(read, expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn clipped_text_fits_and_holds_no_nul(text in any::<String>(), max in 0_usize..64) {
            let clipped = clip(&text, max);
            prop_assert!(clipped.len() <= max && !clipped.contains('\0'));
            prop_assert!(text.replace('\0', "").starts_with(&clipped));
        }

        #[test]
        fn a_phrase_is_a_valid_display_name(name in "\\PC{0,2000}") {
            let phrase = phrase("", &name, " Group Member");
            prop_assert!(phrase.len() <= MAX_NAME && phrase.ends_with(" Group Member"));
        }
    }
}
