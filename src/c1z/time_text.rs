//! The text layout of timestamps in the database: `YYYY-MM-DD HH:MM:SS[.fffffffff]`, UTC, no zone, trailing zeros cut.
//!
//! Readers compare these texts byte by byte, so one layout is used everywhere.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// The text of an instant.
pub(super) fn format(instant: Timestamp) -> String {
    let at = TimeZone::UTC.to_datetime(instant);
    let mut text = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if at.subsec_nanosecond() != 0 {
        let fraction = format!("{:09}", at.subsec_nanosecond());
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text
}

/// The instant of a text, which may carry a zone; without one it is UTC.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    let civil: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_without_zone_and_trailing_zeros() {
        for (instant, text) in [
            ("2026-08-01T10:00:00Z", "2026-08-01 10:00:00"),
            ("2026-08-01T10:00:00.5Z", "2026-08-01 10:00:00.5"),
            (
                "2026-08-01T12:00:00.123456789+02:00",
                "2026-08-01 10:00:00.123456789",
            ),
            (
                "2026-08-01T10:00:00.000000120Z",
                "2026-08-01 10:00:00.00000012",
            ),
        ] {
            let instant: Timestamp = instant.parse().unwrap();
            assert_eq!(format(instant), text);
            assert_eq!(parse(text), Some(instant));
        }
    }

    #[test]
    fn texts_of_other_writers_are_read() {
        assert_eq!(
            parse("2026-08-01T12:00:00+02:00"),
            "2026-08-01T10:00:00Z".parse().ok()
        );
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse(""), None);
    }
}
