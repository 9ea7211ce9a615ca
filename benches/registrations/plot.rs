//! How many are registered after so many seconds.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// A line for each case: its name, and when each of its runners was registered.
pub fn write(file: &Path, cases: &[(&str, &[f64])]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let longest = cases.iter().flat_map(|(_, waits)| *waits).copied().fold(0.0, f64::max);
    let most = cases.iter().map(|(_, waits)| waits.len()).max().unwrap_or_default();
    let root = SVGBackend::new(file, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Runners that start at once", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..longest.max(0.01), 0..most.max(1))?;
    chart.configure_mesh().x_desc("seconds").y_desc("registered").draw()?;
    for (number, (name, waits)) in cases.iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        let mut waits = waits.to_vec();
        waits.sort_unstable_by(f64::total_cmp);
        let points = std::iter::once(0.0).chain(waits).enumerate().map(|(count, at)| (at, count));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
