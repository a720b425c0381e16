//! HdrHistogram's percentile output (`.hgrm`), as its Java implementation writes it and its plotters
//! read it: value, percentile, count up to there, 1 / (1 - percentile); then a footer. Values are in
//! milliseconds.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Lines for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
/// From the histogram's microseconds to the output's milliseconds.
const MICROSECONDS_PER_UNIT: f64 = 1_000.0;

/// The percentile output of a histogram of microseconds.
pub(super) fn percentile_output(latencies: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in latencies.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / MICROSECONDS_PER_UNIT;
        let quantile = step.quantile_iterated_to();
        let written = if quantile < 1.0 {
            let inverse = 1.0 / (1.0 - quantile);
            writeln!(text, "{value:>12.3} {quantile:>14.12} {count:>10} {inverse:>14.2}")
        } else {
            writeln!(text, "{value:>12.3} {quantile:>14.12} {count:>10}")
        };
        written.expect("text takes text");
    }
    let scaled = |value: f64| value / MICROSECONDS_PER_UNIT;
    writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n\
         #[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        scaled(latencies.mean()),
        scaled(latencies.stdev()),
        scaled(latencies.max() as f64),
        latencies.len(),
        latencies.buckets(),
        sub_buckets(latencies.sigfig()),
    )
    .expect("text takes text");
    text
}

/// HdrHistogram's number of linear steps in a bucket: a power of two that resolves the digits.
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10_u64.pow(digits.into())).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measured::histogram;

    #[test]
    fn the_output_is_golden() {
        let mut latencies = histogram();
        (1..=10).for_each(|value| latencies.record(value * 1_000).expect("in range"));
        let golden = "       Value     Percentile TotalCount 1/(1-Percentile)

       1.000 0.000000000000          1           1.00
       1.000 0.100000000000          1           1.11
       2.000 0.200000000000          2           1.25
       4.001 0.300000000000          4           1.43
       4.001 0.400000000000          4           1.67
       5.003 0.500000000000          5           2.00
       6.003 0.550000000000          6           2.22
       7.003 0.600000000000          7           2.50
       7.003 0.650000000000          7           2.86
       8.003 0.700000000000          8           3.33
       8.003 0.750000000000          8           4.00
       8.003 0.775000000000          8           4.44
       9.007 0.800000000000          9           5.00
       9.007 0.825000000000          9           5.71
       9.007 0.850000000000          9           6.67
       9.007 0.875000000000          9           8.00
       9.007 0.887500000000          9           8.89
      10.007 0.900000000000         10          10.00
      10.007 1.000000000000         10
#[Mean    =        5.502, StdDeviation   =        2.874]
#[Max     =       10.007, Total count    =           10]
#[Buckets =           16, SubBuckets     =         2048]
";
        assert_eq!(percentile_output(&latencies), golden);
    }

    #[test]
    fn an_empty_histogram_has_a_head_and_a_footer() {
        let text = percentile_output(&histogram());
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        assert!(text.contains("Total count    =            0]"), "{text}");
    }
}
