//! Numbers as people read them: three significant digits, and one unit for each quantity.

/// What a number measures, which decides its unit, and whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// Bits per second.
    Throughput,
    /// Packets per second.
    PacketRate,
    /// Nanoseconds.
    Time,
    /// Processor seconds per gigabit.
    CostPerGigabit,
    /// Processor seconds per million packets.
    CostPerMillion,
    /// Bytes.
    Memory,
}

impl Quantity {
    /// The unit in which it is shown. It is the same for all values, so that columns can be read from top to bottom.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::PacketRate => "kpps",
            Self::Time => "µs",
            Self::CostPerGigabit => "CPU-s/Gbit",
            Self::CostPerMillion => "CPU-s/Mpkt",
            Self::Memory => "MiB",
        }
    }

    /// A value, as it is stored, in the unit in which it is shown.
    pub(crate) fn scaled(self, value: f64) -> f64 {
        value
            / match self {
                Self::Throughput => 1e9,
                Self::PacketRate | Self::Time => 1e3,
                Self::CostPerGigabit | Self::CostPerMillion => 1.0,
                Self::Memory => 1024.0 * 1024.0,
            }
    }

    /// A stored value as text, without the unit.
    pub(crate) fn text(self, value: f64) -> String {
        significant(self.scaled(value))
    }

    /// Is a larger value better?
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::Throughput | Self::PacketRate)
    }

    /// The better one of two values.
    pub(crate) fn is_better(self, value: f64, than: f64) -> bool {
        if self.more_is_better() { value > than } else { value < than }
    }
}

/// Three significant digits, and never an exponent.
pub(crate) fn significant(value: f64) -> String {
    // Half a unit below each power of ten: 9.996 becomes 10.0, not 10.00.
    let decimals = [99.95, 9.995, 0.9995, 0.09995, 0.009995].iter().take_while(|&&limit| value.abs() < limit).count();
    if value == 0.0 { "0".to_owned() } else { format!("{value:.decimals$}") }
}

/// Half the range as a share of the median: `±3%`.
pub(crate) fn spread(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 1.0 || percent == 0.0 { format!("±{percent:.0}%") } else { format!("±{percent:.1}%") }
}

/// How many times another value, with two digits: the third is noise.
pub(crate) fn ratio(ratio: f64) -> String {
    let decimals = [9.95, 0.995, 0.0995].iter().take_while(|&&limit| ratio < limit).count();
    format!("{ratio:.decimals$}")
}

/// A share in percent, for counts of rare events: nothing at all and very little look different.
pub(crate) fn share(part: u64, of: u64) -> String {
    let percent = 100.0 * part as f64 / of as f64;
    match (part, of) {
        (0, 0) => "-".to_owned(),
        (0, _) => "0 %".to_owned(),
        _ if percent < 0.001 => "<0.001 %".to_owned(),
        _ if percent < 0.1 => format!("{percent:.3} %"),
        _ => format!("{percent:.1} %"),
    }
}

/// A count, in groups of three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One or many of something: `1 round`, `5 rounds`.
pub(crate) fn plural(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Text that can stand in HTML and SVG, also within an attribute. Control characters are no XML, so they go.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(character),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            _ if character.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let texts = [1234.5, 99.96, 99.94, 9.996, 9.994, 1.0, 0.1234, 0.01234, 0.001234, 0.0, -12.34].map(significant);
        assert_eq!(texts, ["1234", "100", "99.9", "10.0", "9.99", "1.00", "0.123", "0.0123", "0.00123", "0", "-12.3"]);
    }

    #[test]
    fn units() {
        assert_eq!(Quantity::Throughput.text(7.123e9), "7.12");
        assert_eq!(Quantity::PacketRate.text(1.5e6), "1500");
        assert_eq!(Quantity::Time.text(25_300.0), "25.3");
        assert_eq!(Quantity::Memory.text(10.0 * 1024.0 * 1024.0), "10.0");
    }

    #[test]
    fn shares_and_counts() {
        assert_eq!(
            [share(0, 0), share(0, 9), share(1, 1_000_000), share(1, 2000), share(1, 3)],
            ["-", "0 %", "<0.001 %", "0.050 %", "33.3 %"]
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([spread(0.0), spread(0.004), spread(0.034)], ["±0%", "±0.4%", "±3%"]);
        assert_eq!([0.8249, 0.0512, 1.0, 4.36, 17.3].map(ratio), ["0.82", "0.051", "1.0", "4.4", "17"]);
    }

    #[test]
    fn escaped() {
        assert_eq!(escape("a<b>&\"'\u{1}é"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}é");
    }
}
