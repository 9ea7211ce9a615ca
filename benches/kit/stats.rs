//! Numbers of many rounds made one.

/// The middle one; of an even number the mean of both in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// The value that this part of all values does not exceed.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_unstable_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}
