//! One chart as SVG, by the crate `plotters`.
//!
//! Axes are linear and begin at zero, ticks are computed here: with a range that is empty or not finite, plotters' own search for
//! ticks would not end. Colours of the lines stand for the page's, which are other ones in the dark: its style sheet knows them by
//! the attribute.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

/// The size in pixels; coordinates are whole ones, so they are twice as many as are shown.
const SIZE: (u32, u32) = (1800, 600);

/// Twice the size of the page's text, as plotters means it.
const FONT: u32 = 30;

/// Axes, grid and marks: seen on light and dark.
const INK: RGBColor = RGBColor(0x80, 0x80, 0x80);

/// What lines are drawn in, one after the other; `page.css` has the same, and their counterparts in the dark.
pub(super) const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xC2, 0x51, 0x00),
    RGBColor(0x00, 0x80, 0x60),
    RGBColor(0xA8, 0x4B, 0x92),
    RGBColor(0x8A, 0x6D, 0x00),
    RGBColor(0x56, 0x60, 0x6B),
];

/// How near to each other two marks may be to both have their names shown, in parts of the width.
const NEAREST_NAMES: f64 = 0.02;

/// Characters of a mark's name that have room below each other.
const LONGEST_NAME: usize = 24;

/// An axis from zero to `end`.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// What is on it, with the unit.
    pub name: String,
    pub end: f64,
    pub ticks: Vec<f64>,
    pub format: fn(f64) -> String,
}

impl Axis {
    /// For values up to `largest`: the axis ends at the tick after it.
    pub(super) fn reaching(name: impl Into<String>, largest: f64) -> Self {
        let largest = if largest.is_finite() && largest > 0.0 { largest } else { 1.0 };
        let step = step(largest);
        let ticks: Vec<f64> = (0..=(largest / step).ceil() as u32).map(|tick| f64::from(tick) * step).collect();
        let end = ticks.last().copied().unwrap_or(largest);
        Self { name: name.into(), end, ticks, format: tick }
    }

    /// The same, ending where the values do.
    pub(super) fn ending_at(name: impl Into<String>, largest: f64) -> Self {
        let mut axis = Self::reaching(name, largest);
        if largest.is_finite() && largest > 0.0 {
            axis.end = largest;
            axis.ticks.retain(|tick| *tick <= largest);
        }
        axis
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        first + (value / self.end * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        0.0..self.end
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        tick(*value)
    }

    fn format_ext(&self, value: &f64) -> String {
        (self.format)(*value)
    }
}

/// The distance of ticks, of which there are six at most after zero: 1, 2 or 5 of a power of ten.
fn step(largest: f64) -> f64 {
    let power = 10f64.powf((largest / 6.0).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| largest / step <= 6.0).unwrap_or(10.0 * power)
}

/// A name that fits beside its mark.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

/// A number at a tick, with as many decimals as it takes and no rounding errors.
fn tick(value: f64) -> String {
    let text = format!("{value:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Lines over one pair of axes.
#[derive(Debug)]
pub(super) struct Chart {
    pub x: Axis,
    pub y: Axis,
    /// Points by rising x, a line each; in the order of [`COLOURS`].
    pub lines: Vec<Vec<(f64, f64)>>,
    /// Moments on the x axis that have a name.
    pub marks: Vec<(f64, String)>,
}

impl Chart {
    /// The SVG element, without a title: that is the page's. `None` if there is nothing to draw.
    pub(super) fn svg(&self) -> Option<String> {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        let lines: Vec<Vec<_>> = self
            .lines
            .iter()
            .map(|line| line.iter().copied().filter(finite).map(|(x, y)| self.inside(x, y)).collect())
            .collect();
        if lines.iter().all(Vec::is_empty) {
            return None;
        }
        let mut svg = String::new();
        self.draw(&mut svg, lines).ok()?;
        Some(svg)
    }

    /// The point, or the one on the edge if it is outside.
    fn inside(&self, x: f64, y: f64) -> (f64, f64) {
        (x.clamp(0.0, self.x.end), y.clamp(0.0, self.y.end))
    }

    fn draw(&self, svg: &mut String, lines: Vec<Vec<(f64, f64)>>) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_top(28)
            .margin_right(64)
            .x_label_area_size(84)
            .y_label_area_size(120)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .axis_style(INK.stroke_width(2))
            .bold_line_style(INK.mix(0.3).stroke_width(2))
            .label_style(("sans-serif", FONT))
            .axis_desc_style(("sans-serif", FONT))
            .x_desc(&self.x.name)
            .y_desc(&self.y.name)
            .draw()?;
        let mut named = f64::NEG_INFINITY;
        for (at, name) in &self.marks {
            if !(0.0..=self.x.end).contains(at) {
                continue;
            }
            let ends = [(*at, 0.0), (*at, self.y.end)];
            chart.draw_series([PathElement::new(ends, INK.mix(0.7).stroke_width(2))])?;
            if (at - named) / self.x.end >= NEAREST_NAMES {
                let style = ("sans-serif", FONT - 4).into_font().transform(FontTransform::Rotate90);
                // To the right of its line, from the top down.
                let text = Text::new(shortened(name), (FONT as i32, 8), style);
                chart.draw_series([EmptyElement::at((*at, self.y.end)) + text])?;
                named = *at;
            }
        }
        for (line, colour) in lines.into_iter().zip(COLOURS.iter().cycle()) {
            // A line of one point would not be seen.
            if let [only] = line[..] {
                chart.draw_series([Circle::new(only, 6, colour.filled())])?;
            }
            chart.draw_series(LineSeries::new(line, colour.stroke_width(4)))?;
        }
        area.present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_the_tick_after_the_largest_value() {
        let ticks = |largest| Axis::reaching("", largest).ticks.into_iter().map(tick).collect::<Vec<_>>();
        assert_eq!(ticks(12.3), ["0", "5", "10", "15"]);
        assert_eq!(ticks(0.6), ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]);
        assert_eq!(ticks(10_000.0), ["0", "2000", "4000", "6000", "8000", "10000"]);
        assert_eq!(Axis::ending_at("", 12.3).end, 12.3);
    }

    #[test]
    fn an_axis_of_nothing_goes_to_one() {
        for nothing in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Axis::reaching("", nothing).end, 1.0);
            assert_eq!(Axis::ending_at("", nothing).end, 1.0);
        }
        assert!(Axis::reaching("", f64::MIN_POSITIVE).ticks.len() <= 8);
        assert!(Axis::reaching("", f64::MAX).ticks.len() <= 8);
    }

    #[test]
    fn without_a_point_there_is_no_chart() {
        let chart = |lines| Chart { x: Axis::reaching("", 1.0), y: Axis::reaching("", 1.0), lines, marks: Vec::new() };
        assert_eq!(chart(vec![]).svg(), None);
        assert_eq!(chart(vec![vec![], vec![(f64::NAN, 1.0), (1.0, f64::INFINITY)]]).svg(), None);
        assert!(chart(vec![vec![(0.5, 0.5)]]).svg().is_some_and(|svg| svg.contains("<circle")), "one point is seen");
    }
}
