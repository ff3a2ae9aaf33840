//! Amounts of data as people write them, in powers of 1,000, as SIM plans count: `1MB`,
//! `1.5 GB`.

/// A whole number, or one with a point, and `B`, `kB`, `MB` or `GB`. `None` for
/// anything else, parts of a byte and what does not fit into 64 bits among it.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = (text.get(..at)?.trim_end(), text.get(at..)?);
    let digits = match unit {
        "B" => 0,
        "kB" => 3,
        "MB" => 6,
        "GB" => 9,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let ends = number.ends_with(|c: char| c.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(part) || !ends || part.len() > digits {
        return None;
    }
    let scale =
        |power: usize| u32::try_from(power).ok().and_then(|power| 10_u64.checked_pow(power));
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale(digits)?)?;
    let part = if part.is_empty() {
        0
    } else {
        part.parse::<u64>().ok()?.checked_mul(scale(digits - part.len())?)?
    };
    whole.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_to_the_byte_and_nothing_else_is() {
        let texts = ["0B", "1kB", "1.5 MB", "0.000000001GB", "18446744073709551615B"];
        assert_eq!(texts.map(parse), [0, 1_000, 1_500_000, 1, u64::MAX].map(Some));
        for wrong in ["", "1", "MB", "1meg", "1.MB", ".5MB", "-1B", "0.5B", "18446744073709551616B"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
