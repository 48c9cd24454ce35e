//! Two kinds of charts: lines with their names at their ends, and bars.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "Helvetica, Arial, sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(120, 120, 120);
const GRID: RGBColor = RGBColor(226, 226, 226);
/// Lines of text and bars are so many pixels apart.
const STEP: i32 = 17;
const MARGIN: i32 = 20;
const HEAD: i32 = 64;
/// Of lines, below the name of the vertical axis.
const TOP: i32 = HEAD + 24;

/// A name and its points.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines over two logarithmic axes.
pub struct Lines<'a> {
    pub title: &'a str,
    /// The machine.
    pub subtitle: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// The marks of the horizontal axis.
    pub marks: Vec<(f64, String)>,
    pub lines: Vec<Line>,
}

/// What a consumer is drawn in: a hue for a kind of reader, paler for epoll.
fn colour(name: &str) -> RGBColor {
    let epoll = name.contains("epoll");
    match name {
        _ if name.starts_with("bare-epoll") => RGBColor(0, 0, 0),
        _ if name.starts_with("bare") => RGBColor(120, 120, 120),
        _ if name.starts_with("stream") && name.contains("-w") && epoll => RGBColor(90, 200, 220),
        _ if name.starts_with("stream") && name.contains("-w") => RGBColor(0, 140, 170),
        _ if name.starts_with("stream") && epoll => RGBColor(115, 160, 240),
        _ if name.starts_with("stream") => RGBColor(25, 75, 200),
        _ if name.starts_with("reader") && name.contains("-w0") && epoll => RGBColor(160, 190, 60),
        _ if name.starts_with("reader") && name.contains("-w0") => RGBColor(100, 125, 0),
        _ if name.starts_with("reader") && epoll => RGBColor(90, 190, 120),
        _ if name.starts_with("reader") && name.contains("-w") => RGBColor(0, 80, 70),
        _ if name.starts_with("reader") => RGBColor(0, 135, 50),
        "tokio-inplace-w0" => RGBColor(150, 60, 190),
        _ if name.contains("inplace") => RGBColor(205, 90, 200),
        "inotify-tokio" => RGBColor(225, 110, 0),
        _ if name.starts_with("inotify") => RGBColor(245, 170, 60),
        _ => RGBColor(200, 20, 40),
    }
}

fn text(size: i32, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let style: TextStyle = (FONT, size).into_font().color(&colour);
    style.pos(Pos::new(horizontal, vertical))
}

fn head(root: &Area, title: &str, subtitle: &str) -> Drawn {
    root.fill(&WHITE)?;
    root.draw_text(title, &text(20, INK, HPos::Left, VPos::Top), (MARGIN, 14))?;
    root.draw_text(subtitle, &text(13, FAINT, HPos::Left, VPos::Top), (MARGIN, 40))?;
    Ok(())
}

/// From a 1, 2 or 5 of a power of ten to another, around the values.
fn around(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    let nice = |value: f64, up: bool| {
        let power = 10_f64.powf(value.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let fits = |step: &&f64| if up { **step >= value } else { **step <= value };
        let found = if up {
            steps.iter().find(fits)
        } else {
            steps.iter().rev().find(fits)
        };
        *found.unwrap_or(&value)
    };
    nice(least * 0.95, false)..nice(most * 1.05, true)
}

/// 1, 2 and 5 times the powers of ten that are within.
fn steps(range: &std::ops::Range<f64>) -> Vec<f64> {
    let powers = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let all = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)));
    all.filter(|at| (range.start * 0.999..=range.end * 1.001).contains(at))
        .collect()
}

impl Lines<'_> {
    pub fn draw(&self, path: &Path) -> Drawn {
        let (width, height) = (960, 600);
        let root = SVGBackend::new(path, (width, height)).into_drawing_area();
        head(&root, self.title, self.subtitle)?;
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        if points().next().is_none() {
            return Err(format!("nothing to draw for {:?}", self.title).into());
        }
        let x = points().map(|point| point.0).fold(f64::INFINITY, f64::min)..points().map(|p| p.0).fold(0.0, f64::max);
        let y = around(points().map(|point| point.1));
        let mut chart = ChartBuilder::on(&root)
            .margin_top(TOP)
            .margin_left(12)
            .margin_right(200)
            .margin_bottom(10)
            .x_label_area_size(54)
            .y_label_area_size(72)
            .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
        let left = chart.backend_coord(&(x.start, y.start)).0;
        let right = chart.backend_coord(&(x.end, y.start)).0;
        for at in steps(&y) {
            let height = chart.backend_coord(&(x.start, at)).1;
            root.draw(&PathElement::new([(left - 5, height), (right, height)], GRID))?;
            let style = text(13, INK, HPos::Right, VPos::Center);
            root.draw_text(&number(at), &style, (left - 10, height))?;
        }
        root.draw_text(self.y, &text(13, FAINT, HPos::Left, VPos::Bottom), (MARGIN, HEAD + 12))?;
        let bottom = chart.backend_coord(&(x.start, y.start)).1;
        for (at, name) in &self.marks {
            let (x, _) = chart.backend_coord(&(*at, y.start));
            root.draw(&PathElement::new([(x, TOP), (x, bottom + 5)], GRID))?;
            root.draw_text(name, &text(13, INK, HPos::Center, VPos::Top), (x, bottom + 9))?;
        }
        let middle = (left + right) / 2;
        root.draw_text(self.x, &text(13, FAINT, HPos::Center, VPos::Top), (middle, bottom + 32))?;
        let mut ends = Vec::new();
        for line in &self.lines {
            let colour = colour(&line.name);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
            let dots = line.points.iter().map(|&point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots)?;
            if let Some(&end) = line.points.last() {
                ends.push((chart.backend_coord(&end), line.name.as_str(), colour));
            }
        }
        names(&root, ends, height as i32)?;
        root.present()?;
        Ok(())
    }
}

/// The names at the ends of the lines, apart enough to be read, with a stroke to where they belong.
fn names(root: &Area, mut ends: Vec<((i32, i32), &str, RGBColor)>, height: i32) -> Drawn {
    ends.sort_by_key(|((_, y), ..)| *y);
    let mut places: Vec<i32> = ends.iter().map(|((_, y), ..)| *y).collect();
    // Neighbours that are too near part by a pixel at a time, both alike, within the height.
    for _ in 0..height {
        for i in 1..places.len() {
            if places[i] - places[i - 1] < STEP {
                places[i - 1] = (places[i - 1] - 1).max(HEAD);
                places[i] = (places[i] + 1).min(height - 60);
            }
        }
    }
    for (((x, y), name, colour), place) in ends.into_iter().zip(places) {
        root.draw(&PathElement::new([(x + 5, y), (x + 22, place)], colour.mix(0.6)))?;
        root.draw_text(name, &text(13, colour, HPos::Left, VPos::Center), (x + 26, place))?;
    }
    Ok(())
}

/// A number as short as it can be read.
fn number(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", short(value / 1e6)),
        _ if value >= 1e3 => format!("{},{:03.0}", (value / 1e3).floor(), value % 1e3),
        _ => short(value),
    }
}

fn short(value: f64) -> String {
    let digits = if value >= 100.0 || value.fract() == 0.0 || value < 0.05 {
        0
    } else {
        1
    };
    format!("{value:.digits$}")
}

/// Bars of one unit, with an error from the least to the most.
pub struct Panel {
    pub name: String,
    pub unit: &'static str,
    /// Name, median, least and most.
    pub bars: Vec<(String, f64, f64, f64)>,
}

pub struct Bars<'a> {
    pub title: &'a str,
    pub subtitle: &'a str,
    pub panels: Vec<Panel>,
}

impl Bars<'_> {
    /// The panels one below another.
    pub fn draw(&self, path: &Path) -> Drawn {
        const PANEL: i32 = 44;
        let rows: usize = self.panels.iter().map(|panel| panel.bars.len()).sum();
        let height = HEAD + PANEL * self.panels.len() as i32 + (STEP + 4) * rows as i32 + 10;
        let root = SVGBackend::new(path, (960, height as u32)).into_drawing_area();
        head(&root, self.title, self.subtitle)?;
        let mut top = HEAD;
        for panel in &self.panels {
            let name = format!("{}, {}", panel.name, panel.unit);
            root.draw_text(
                &name,
                &text(15, INK, HPos::Left, VPos::Center),
                (MARGIN, top + PANEL / 2),
            )?;
            panel.draw(&root, top + PANEL)?;
            top += PANEL + (STEP + 4) * panel.bars.len() as i32;
        }
        root.present()?;
        Ok(())
    }
}

impl Panel {
    fn draw(&self, root: &Area, top: i32) -> Drawn {
        const LEFT: i32 = 210;
        const RIGHT: i32 = 840;
        let longest = self.bars.iter().map(|bar| bar.3).fold(0.0, f64::max);
        let place = |value: f64| {
            let part = if longest > 0.0 { value / longest } else { 0.0 };
            LEFT + (part * f64::from(RIGHT - LEFT)).round() as i32
        };
        let rows = i32::try_from(self.bars.len())?;
        for (i, (name, median, least, most)) in self.bars.iter().enumerate() {
            let y = top + (STEP + 4) * i32::try_from(i)?;
            let centre = y + STEP / 2;
            let colour = colour(name);
            root.draw_text(name, &text(13, INK, HPos::Right, VPos::Center), (LEFT - 10, centre))?;
            root.draw(&Rectangle::new(
                [(LEFT, y), (place(*median), y + STEP)],
                colour.filled(),
            ))?;
            let spread = [(place(*least), centre), (place(*most), centre)];
            root.draw(&PathElement::new(spread, FAINT.stroke_width(2)))?;
            let value = number(*median);
            let end = place(median.max(*most)) + 8;
            root.draw_text(&value, &text(13, INK, HPos::Left, VPos::Center), (end, centre))?;
        }
        let axis = [(LEFT, top - 4), (LEFT, top + (STEP + 4) * rows)];
        root.draw(&PathElement::new(axis, FAINT))?;
        Ok(())
    }
}
