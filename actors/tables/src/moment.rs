//! Times as text: UTC, as pandas writes them.

use time::{Date, OffsetDateTime, PlainDateTime, Time, format_description::FormatItem, macros::format_description};

const DAY: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute][optional [:[second][optional [.[subsecond]]]]]");
const WRITTEN: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]");

/// Microseconds since 1970 of a day or a time of day in UTC: `2026-11-22`, `2026-11-22 09:16`, `2026-11-22T09:16:55.25Z`.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches("+00:00").trim_end_matches('Z').replace('T', " ");
    let at = match Date::parse(&text, DAY) {
        Ok(day) => PlainDateTime::new(day, Time::MIDNIGHT),
        Err(_) => PlainDateTime::parse(&text, TIME).ok()?,
    };
    i64::try_from(at.assume_utc().unix_timestamp_nanos() / 1_000).ok()
}

/// Microseconds since 1970 as `2026-11-22 09:16:55.250000`; the number itself where that is no time of the calendar.
#[must_use]
pub fn format(micros: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok();
    at.and_then(|at| at.format(WRITTEN).ok()).unwrap_or_else(|| micros.to_string())
}

/// As [`format`], to the minute: `2026-11-22 09:16`.
#[must_use]
pub fn format_minute(micros: i64) -> String {
    let text = format(micros);
    text.get(..16).map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_pandas_write_them() {
        let micros = 1_795_339_015_250_000;
        for text in ["2026-11-22 09:16:55.25", "2026-11-22T09:16:55.250000Z", "2026-11-22 09:16:55.250000+00:00"] {
            assert_eq!(parse(text), Some(micros), "{text}");
        }
        assert_eq!(parse("2026-11-22").map(format).as_deref(), Some("2026-11-22 00:00:00.000000"));
        assert_eq!(parse("2026-11-22 09:16").map(format).as_deref(), Some("2026-11-22 09:16:00.000000"));
        assert_eq!(format_minute(micros), "2026-11-22 09:16");
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse(&format(micros)), Some(micros));
        assert_eq!(format(i64::MAX), i64::MAX.to_string());
    }
}
