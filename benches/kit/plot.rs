//! Plots as SVG: lines over linear or logarithmic axes, and groups of horizontal bars. The background is white,
//! so that they can be read on a dark page too.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 900;
/// How wide the legend is, to the right of the plot.
const LEGEND: u32 = 230;
/// Of a line with more points, these are not marked: the marks would hide it.
const MARKED: usize = 40;
const FONT: &str = "sans-serif";
const BLACK_ISH: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(221, 221, 221);
/// Told apart by most eyes that see few colours (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// How numbers lie along an axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// In powers of ten; numbers that are not above zero are left out.
    Log,
}

/// One axis.
pub(crate) struct Axis<'a> {
    /// What the numbers are, and their unit.
    pub(crate) label: &'a str,
    /// How they lie.
    pub(crate) scale: Scale,
}

/// One line.
pub(crate) struct Series<'a> {
    /// What the legend calls it.
    pub(crate) name: &'a str,
    /// In the order of the line.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Several lines over the same axes.
pub(crate) struct Lines<'a> {
    /// Above the plot.
    pub(crate) title: &'a str,
    /// Along the bottom.
    pub(crate) x: Axis<'a>,
    /// Along the left side.
    pub(crate) y: Axis<'a>,
    /// The lines.
    pub(crate) series: Vec<Series<'a>>,
}

/// Groups of horizontal bars, from the top down.
pub(crate) struct Bars<'a> {
    /// Above the plot.
    pub(crate) title: &'a str,
    /// What the numbers are, and their unit.
    pub(crate) label: &'a str,
    /// What each bar of a group stands for.
    pub(crate) series: &'a [&'a str],
    /// The groups: a name, and a number for each of `series` where there is one.
    pub(crate) groups: Vec<(&'a str, Vec<Option<f64>>)>,
}

impl Lines<'_> {
    /// Draws it into a file.
    ///
    /// # Errors
    /// There is nothing to draw, or the file cannot be written.
    pub(crate) fn write(&self, file: &Path) -> Drawn {
        let all = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let x = Span::new(self.x.scale, all().map(|point| point.0))?;
        let y = Span::new(self.y.scale, all().map(|point| point.1))?;
        let root = SVGBackend::new(file, (WIDTH, 480)).into_drawing_area();
        let names = self.series.iter().map(|series| series.name);
        let area = framed(&root, self.title, names)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(84)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_label_formatter(&|at| number(x.told(*at)))
            .y_label_formatter(&|at| number(y.told(*at)))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(BLACK_ISH)
            .label_style((FONT, 15, &BLACK_ISH))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<_> = series
                .points
                .iter()
                .filter_map(|point| Some((x.place(point.0)?, y.place(point.1)?)))
                .collect();
            chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            if points.len() <= MARKED {
                chart.draw_series(points.iter().map(|at| Circle::new(*at, 3, colour.filled())))?;
            }
        }
        Ok(root.present()?)
    }
}

impl Bars<'_> {
    /// Draws it into a file.
    ///
    /// # Errors
    /// There is nothing to draw, or the file cannot be written.
    pub(crate) fn write(&self, file: &Path) -> Drawn {
        let all = self.groups.iter().flat_map(|group| group.1.iter().flatten().copied());
        let x = Span::new(Scale::Linear, all)?;
        let (groups, series) = (self.groups.len(), self.series.len());
        let rows = u32::try_from(groups * (series + 1))?;
        let root = SVGBackend::new(file, (WIDTH, 120 + 22 * rows)).into_drawing_area();
        let area = framed(&root, self.title, self.series.iter().copied())?;
        let longest = self.groups.iter().map(|group| group.0.len()).max().unwrap_or_default();
        let middles = (0..groups).map(|group| group as f64 + 0.5).collect();
        // Room for the numbers behind the longest bars.
        let across = Span { range: 0.0..x.range.end * 1.1, ..x };
        let down = Span { scale: Scale::Linear, range: groups as f64..0.0, ticks: middles };
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(u32::try_from(24 + 8 * longest)?)
            .build_cartesian_2d(across, down)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc(self.label)
            .x_label_formatter(&|at| number(*at))
            .y_label_formatter(&|at| self.groups[*at as usize].0.to_owned())
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(BLACK_ISH)
            .label_style((FONT, 15, &BLACK_ISH))
            .draw()?;
        let height = 1.0 / (series as f64 + 1.0);
        let style = (FONT, 13, &BLACK_ISH).into_text_style(&root);
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        for (one, colour) in (0..series).zip(COLOURS.iter().cycle()) {
            let bars: Vec<_> = self
                .groups
                .iter()
                .enumerate()
                .filter_map(|(group, (_, numbers))| {
                    let top = group as f64 + (one as f64 + 0.5) * height;
                    Some((top, numbers.get(one).copied().flatten()?))
                })
                .collect();
            let bar = |(top, to): &(f64, f64)| {
                Rectangle::new(
                    [(0.0, top + 0.05 * height), (*to, top + 0.95 * height)],
                    colour.filled(),
                )
            };
            chart.draw_series(bars.iter().map(bar))?;
            chart.draw_series(bars.iter().map(|(top, to)| {
                let text = Text::new(number(*to), (4, 0), style.clone());
                EmptyElement::at((*to, top + 0.5 * height)) + text
            }))?;
        }
        Ok(root.present()?)
    }
}

/// Draws what is around a plot, and returns the place for it.
fn framed<'a, 'n>(
    root: &Area<'a>,
    title: &str,
    names: impl Iterator<Item = &'n str>,
) -> Result<Area<'a>, Box<dyn Error>> {
    root.fill(&WHITE)?;
    let below = root.titled(title, (FONT, 19).into_font().color(&BLACK_ISH))?;
    let (plot, legend) = below.split_horizontally(WIDTH - LEGEND);
    let style = (FONT, 14).into_font().color(&BLACK_ISH);
    let style = style.pos(Pos::new(HPos::Left, VPos::Center));
    for ((name, colour), row) in names.zip(COLOURS.iter().cycle()).zip(0..) {
        let top = 24 + 22 * row;
        legend.draw(&Rectangle::new([(0, top - 5), (14, top + 5)], colour.filled()))?;
        legend.draw(&Text::new(name.to_owned(), (22, top), style.clone()))?;
    }
    Ok(plot)
}

/// From where to where an axis goes, in places along it: of a logarithmic one, these are powers of ten.
#[derive(Clone)]
struct Span {
    scale: Scale,
    range: std::ops::Range<f64>,
    ticks: Vec<f64>,
}

impl Span {
    fn new(scale: Scale, numbers: impl Iterator<Item = f64>) -> Result<Self, Box<dyn Error>> {
        let places: Vec<_> = numbers.filter_map(|number| placed(scale, number)).collect();
        let least = places.iter().copied().reduce(f64::min).ok_or("there is nothing to draw")?;
        let most = places.iter().copied().reduce(f64::max).unwrap_or(least);
        Ok(match scale {
            Scale::Linear => Self::linear(most),
            Scale::Log => Self::log(least, most),
        })
    }

    fn linear(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let factors = [1.0, 2.0, 5.0, 10.0];
        let step =
            power * factors.into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
        let steps = (most / step).ceil() as u32;
        let ticks = (0..=steps).map(|tick| f64::from(tick) * step).collect();
        Self { scale: Scale::Linear, range: 0.0..f64::from(steps) * step, ticks }
    }

    fn log(least: f64, most: f64) -> Self {
        let start = (least + 1e-9).floor() as i32;
        let end = ((most - 1e-9).ceil() as i32).max(start + 1);
        // Few decades have room for numbers between them.
        let between: &[f64] = if end - start > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let ticks = (start..=end)
            .flat_map(|power| between.iter().map(move |one| f64::from(power) + one.log10()))
            .filter(|tick| *tick <= f64::from(end))
            .collect();
        Self { scale: Scale::Log, range: f64::from(start)..f64::from(end), ticks }
    }

    fn place(&self, number: f64) -> Option<f64> {
        placed(self.scale, number)
    }

    fn told(&self, place: f64) -> f64 {
        match self.scale {
            Scale::Linear => place,
            Scale::Log => 10_f64.powf(place),
        }
    }
}

impl Ranged for Span {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        let part = (place - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (f64::from(limit.1 - limit.0) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Span {
    fn format_ext(&self, place: &f64) -> String {
        number(self.told(*place))
    }
}

fn placed(scale: Scale, number: f64) -> Option<f64> {
    match scale {
        Scale::Linear => Some(number),
        Scale::Log => (number > 0.0).then(|| number.log10()),
    }
    .filter(|place| place.is_finite())
}

/// With three digits, and thousands apart.
fn number(number: f64) -> String {
    let digits = match number.abs() {
        0.0 => 0,
        size => (2 - (size * 1.000_001).log10().floor() as i32).clamp(0, 6) as usize,
    };
    let text = format!("{number:.digits$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match rest.trim_end_matches('0') {
        "" => grouped,
        rest => format!("{grouped}.{rest}"),
    }
}
