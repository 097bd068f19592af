//! Axes: where a value lies, and which values get a tick.

use super::format::significant;

/// Spread over more than this factor, values are shown on a logarithmic axis: the smallest of them would not be seen.
pub(super) const LINEAR_UP_TO: f64 = 40.0;

/// Values outside of this come out of broken files, and would make axes without end.
const SENSIBLE: std::ops::Range<f64> = 1e-30..1e30;

/// An axis from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    /// Logarithmic, or linear from zero.
    pub(super) log: bool,
    low: f64,
    high: f64,
}

impl Axis {
    /// A linear axis from zero.
    pub(super) fn linear(high: f64) -> Self {
        Self { log: false, low: 0.0, high: if SENSIBLE.contains(&high) { high } else { 1.0 } }
    }

    /// A logarithmic axis that covers all values and a little more. Values that have no logarithm lie at its beginning.
    pub(super) fn log(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = range(values).unwrap_or((1.0, 10.0));
        let margin = (high / low).powf(0.04).max(1.05);
        let (mut low, mut high) = (low / margin, high * margin);
        // Without at least one power of ten there would be hardly a tick.
        if high / low < 4.0 {
            (low, high) = (low / 2.0, high * 2.0);
        }
        Self { log: true, low, high }
    }

    /// Linear or logarithmic, whichever shows the smallest value as well.
    pub(super) fn covering(values: &[f64], linear_up_to: f64) -> Self {
        match range(values.iter().copied()) {
            Some((low, high)) if high / low > linear_up_to => Self::log(values.iter().copied()),
            Some((_, high)) => Self::linear(high * 1.05),
            None => Self::linear(1.0),
        }
    }

    /// Where a value lies; 0 is the beginning of the axis and 1 its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = match self.log {
            true if value <= 0.0 => 0.0,
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => value / self.high,
        };
        share.clamp(0.0, 1.0)
    }

    /// The largest value on it.
    pub(super) fn end(&self) -> f64 {
        self.high
    }

    /// Round values within the axis, at most about `most`, with their texts.
    pub(super) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let mut ticks = if self.log { self.log_ticks(most) } else { self.linear_ticks(most) };
        ticks.retain(|&tick| tick >= self.low && tick <= self.high * 1.000_001);
        ticks.into_iter().map(|tick| (tick, text(tick))).collect()
    }

    fn linear_ticks(&self, most: usize) -> Vec<f64> {
        let rough = self.high / most.max(2) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
        (0..=(self.high / step + 0.001) as usize).map(|index| index as f64 * step).collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let with = |factors: &[f64]| -> Vec<f64> {
            let decade = |power: i32| factors.iter().map(move |factor| factor * 10_f64.powi(power));
            (first..=last).flat_map(decade).filter(|tick| (self.low..=self.high).contains(tick)).collect()
        };
        let candidates = [with(&[1.0, 2.0, 5.0]), with(&[1.0, 3.0]), with(&[1.0])];
        candidates.into_iter().find(|ticks| ticks.len() <= most).unwrap_or_else(|| {
            let decades = with(&[1.0]);
            let every = decades.len().div_ceil(most.max(1));
            decades.into_iter().step_by(every).collect()
        })
    }
}

/// The smallest and the largest value that is positive, and not beyond everything that can be measured.
fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| SENSIBLE.contains(value)).fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// A round number without digits that say nothing.
fn text(value: f64) -> String {
    let text = significant(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: Axis, most: usize) -> String {
        axis.ticks(most).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn linear_axes_begin_at_zero() {
        assert_eq!(texts(Axis::covering(&[3.0, 7.3], 40.0), 5), "0 2 4 6");
        assert_eq!(texts(Axis::covering(&[0.03], 40.0), 5), "0 0.01 0.02 0.03");
        assert_eq!(texts(Axis::covering(&[], 40.0), 5), "0 0.2 0.4 0.6 0.8 1");
    }

    #[test]
    fn wide_ranges_become_logarithmic() {
        let axis = Axis::covering(&[0.0, 20.0, 9000.0], 40.0);
        assert!(axis.log);
        assert_eq!(texts(axis, 5), "100 1000 10000");
        assert_eq!(texts(axis, 9), "20 50 100 200 500 1000 2000 5000 10000");
        assert_eq!(axis.at(0.0), 0.0);
        assert!(axis.at(20.0) > 0.0 && axis.at(9000.0) < 1.0);
    }

    #[test]
    fn one_value_has_room() {
        let axis = Axis::log([5.0]);
        assert!(axis.at(5.0) > 0.2 && axis.at(5.0) < 0.8);
        assert!(!axis.ticks(5).is_empty());
    }
}
