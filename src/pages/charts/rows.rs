//! Small bars for cells of tables. The cell has its figure as text beside it, so they are hidden from
//! who listens.

use crate::pages::format::Html;

/// Width of a bar, in the units of its view box.
const WIDTH: f64 = 100.0;

/// A probability with its interval: the range pale, the estimate as a tick.
pub fn interval(low: f64, value: f64, high: f64) -> Html {
    let [low, value, high] = [low, value, high].map(|p| WIDTH * p.clamp(0.0, 1.0));
    let mut html = open("meter", 10.0);
    html.raw(r#"<rect class="back" y="3" width="100" height="4" rx="2"/>"#);
    html.add(format_args!(
        r#"<rect class="range" x="{low:.1}" y="1.5" width="{:.1}" height="7" rx="2"/><rect class="front" x="{:.1}" width="4" height="10" rx="1"/></svg>"#,
        (high - low).max(0.0),
        (value - 2.0).clamp(0.0, WIDTH - 4.0),
    ));
    html
}

/// A share of a whole, 0 to 1.
pub fn share(share: f64) -> Html {
    let width = WIDTH * share.clamp(0.0, 1.0);
    let mut html = open("meter", 10.0);
    html.add(format_args!(
        r#"<rect class="back" y="2" width="100" height="6" rx="2"/><rect class="front" y="2" width="{width:.1}" height="6" rx="2"/></svg>"#
    ));
    html
}

/// Quartiles on a scale that many rows share: a line from the lower to the upper, a tick at the median.
pub fn quartiles(lower: f64, median: f64, upper: f64, max: f64) -> Html {
    let scaled = |days: f64| WIDTH * (days / max.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    let [lower, median, upper] = [lower, median, upper].map(scaled);
    let mut html = open("meter wide", 10.0);
    html.add(format_args!(
        r#"<rect class="back" y="4.5" width="100" height="1"/><rect class="range" x="{lower:.1}" y="2" width="{:.1}" height="6" rx="1"/><rect class="front" x="{:.1}" width="2" height="10"/></svg>"#,
        (upper - lower).max(1.0),
        (median - 1.0).clamp(0.0, WIDTH - 2.0),
    ));
    html
}

/// A stage of a funnel: a bar in the middle, as wide as the share of the deals that came here.
pub fn funnel(share: f64) -> Html {
    let width = WIDTH * share.clamp(0.0, 1.0);
    let mut html = open("meter funnel", 16.0);
    html.add(format_args!(
        r#"<rect class="front" x="{:.1}" width="{width:.1}" height="16" rx="2"/></svg>"#,
        (WIDTH - width) / 2.0,
    ));
    html
}

fn open(class: &str, height: f64) -> Html {
    let mut html = Html::default();
    html.add(format_args!(
        r#"<svg class="{class}" viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" aria-hidden="true">"#
    ));
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_within_their_box() {
        let html = interval(-0.5, 0.999, 2.0).to_string();
        assert!(html.contains(r#"x="0.0" y="1.5" width="100.0""#), "{html}");
        assert!(html.contains(r#"x="96.0" width="4""#), "{html}");
        assert!(share(0.5).as_str().contains(r#"width="50.0""#));
        assert!(quartiles(1.0, 2.0, 3.0, 0.0).as_str().contains("100"));
        assert!(funnel(0.5).as_str().contains(r#"x="25.0" width="50.0""#));
    }
}
