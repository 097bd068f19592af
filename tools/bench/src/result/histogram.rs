//! Distributions of times, and the two file formats that the tools around HdrHistogram read.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, write};

/// Three digits: within 0.1 % of the true value.
const DIGITS: u8 = 3;
/// The longest time that is told apart, in nanoseconds; longer ones count as this long.
const LONGEST: u64 = 60_000_000_000;

/// A distribution as it stands in a result: the usual percentiles in nanoseconds, and all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many times were recorded.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// 90 of 100 were not longer.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1000.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// The mean.
    pub mean: f64,
    /// The histogram of nanoseconds; in JSON as text, in the compressed format of `.hlog` files.
    #[serde(with = "as_text")]
    pub histogram: Histogram<u64>,
}

/// An empty histogram of nanoseconds.
pub fn new() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("constant bounds that fit each other")
}

/// Records one time; one that is too long counts as the longest.
pub fn record(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram.saturating_record(nanoseconds.max(1));
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
            mean: histogram.mean(),
            histogram: histogram.clone(),
        }
    }
}

/// HdrHistogram's format V2 with DEFLATE, in base 64.
mod as_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::{Deserializer as Decoder, Serializer as _, V2DeflateSerializer};
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(histogram: &Histogram<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        let encoded = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
        encoded.map_err(|error| S::Error::custom(format!("{error:?}")))?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histogram<u64>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let decoded = Decoder::new().deserialize(&mut bytes.as_slice());
        decoded.map_err(|error| D::Error::custom(format!("no histogram: {error:?}")))
    }
}

/// Writes `<stem>.hlog` (an interval log with one interval) and `<stem>.hgrm` (percentiles as text, in microseconds), as
/// HdrHistogram's own tools and plotters read them.
pub fn save(histogram: &Histogram<u64>, stem: &Path, began: SystemTime, lasted: Duration) -> Result<()> {
    write(&stem.with_extension("hgrm"), &percentiles(histogram, 1000.0))?;
    let failed = |error: &dyn std::fmt::Debug| Error::other(format!("writing an interval log: {error:?}"));
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("times in nanoseconds")
        .with_start_time(began)
        .begin_log_with(&mut log, &mut serializer)
        .map_err(|error| failed(&error))?;
    writer.write_histogram(histogram, Duration::ZERO, lasted, Tag::new("latency")).map_err(|error| failed(&error))?;
    write(&stem.with_extension("hlog"), &String::from_utf8_lossy(&log))
}

/// All recorded times of several distributions in one histogram.
pub fn merge<'a>(all: impl IntoIterator<Item = &'a Latency>) -> Histogram<u64> {
    let mut sum = new();
    for latency in all {
        for step in latency.histogram.iter_recorded() {
            sum.saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
    }
    sum
}

/// The text format of `HistogramLogProcessor`: value, percentile, total count, 1/(1-percentile).
fn percentiles(histogram: &Histogram<u64>, unit: f64) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / unit;
        let _ = write!(text, "{value:12.3} {quantile:2.12} {total:10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
        histogram.mean() / unit,
        histogram.stdev() / unit
    );
    let _ =
        writeln!(text, "#[Max     = {:12.3}, Total count    = {:12}]", histogram.max() as f64 / unit, histogram.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_all_of_it() {
        let mut histogram = new();
        for nanoseconds in [0, 1, 900, 77_000, 77_001, 5_000_000, u64::MAX] {
            record(&mut histogram, nanoseconds);
        }
        let latency = Latency::from(&histogram);
        assert_eq!((latency.count, latency.p50), (7, histogram.value_at_quantile(0.5)));
        let text = serde_json::to_string(&latency).expect("JSON");
        let again: Latency = serde_json::from_str(&text).expect("the same");
        assert_eq!(again, latency);
        let broken = text.replace("HIST", "HOST");
        assert!(serde_json::from_str::<Latency>(&broken).is_err());
        assert_eq!(merge([&latency, &again]).len(), 14);
    }
}
