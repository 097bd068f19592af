//! Medians and spreads of a few rounds.

/// What a handful of numbers has in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many numbers.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// `None` for no numbers at all. NaN is not expected, and sorts last.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let count = sorted.len();
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        Some(Self { count, min, median, max })
    }

    /// Half the distance between the smallest and the largest, as a share of the median: ±0.1 is "±10 %".
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / 2.0 / self.median.abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_numbers() {
        assert_eq!(Summary::of([]), None);
        let one = Summary::of([4.0]).expect("one number");
        assert_eq!((one.count, one.min, one.median, one.max, one.spread()), (1, 4.0, 4.0, 4.0, 0.0));
        let four = Summary::of([4.0, 1.0, 3.0, 2.0]).expect("four numbers");
        assert_eq!((four.count, four.min, four.median, four.max), (4, 1.0, 2.5, 4.0));
        assert!((four.spread() - 0.6).abs() < 1e-12);
        assert_eq!(Summary::of([9.0, 1.0, 2.0]).map(|three| three.median), Some(2.0));
    }
}
