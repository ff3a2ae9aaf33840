//! A join string as a QR code.
//!
//! On a terminal always in explicit black and white: in the theme's colours on
//! a dark terminal it comes out inverted, which readers refuse.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code.
const BORDER: usize = 2;

fn code(text: &str, level: EcLevel) -> Option<QrCode> {
    QrCode::with_error_correction_level(text, level).ok()
}

fn is_dark(code: &QrCode, x: usize, y: usize) -> bool {
    let inside = |at: usize| at.checked_sub(BORDER).filter(|at| *at < code.width());
    match (inside(x), inside(y)) {
        (Some(x), Some(y)) => code[(x, y)] == Color::Dark,
        _ => false,
    }
}

fn side(code: &QrCode) -> usize {
    code.width() + 2 * BORDER
}

/// Lines for a terminal of this size, two modules in a character; `None` = it
/// does not fit. The stronger level is taken if that fits too.
pub(crate) fn terminal(text: &str, (width, height): (usize, usize)) -> Option<String> {
    let fits = |code: &QrCode| side(code) <= width && side(code).div_ceil(2) < height;
    let strong = code(text, EcLevel::M).filter(fits);
    let code = strong.or_else(|| code(text, EcLevel::L).filter(|code| side(code) <= width))?;
    let mut lines = String::new();
    for y in (0..side(&code)).step_by(2) {
        for x in 0..side(&code) {
            let upper = if is_dark(&code, x, y) { 30 } else { 97 };
            let lower = if is_dark(&code, x, y + 1) { 40 } else { 107 };
            lines.push_str(&format!("\x1b[{upper};{lower}m▀"));
        }
        lines.push_str("\x1b[0m\n");
    }
    Some(lines)
}

/// An SVG document.
pub(crate) fn svg(text: &str) -> Option<String> {
    let code = code(text, EcLevel::M).or_else(|| code(text, EcLevel::L))?;
    let side = side(&code);
    let mut path = String::new();
    for y in 0..side {
        for x in (0..side).filter(|x| is_dark(&code, *x, y)) {
            path.push_str(&format!("M{x} {y}h1v1h-1z"));
        }
    }
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" \
         shape-rendering=\"crispEdges\"><path fill=\"#fff\" d=\"M0 0h{side}v{side}h-{side}z\"/>\
         <path d=\"{path}\"/></svg>\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A join string of the usual length.
    fn join() -> String {
        format!("WEFT1{}", "AEFINMBQTQ245MQ3".repeat(12).split_at(184).0)
    }

    #[test]
    fn is_as_small_as_measured() {
        let columns = |size| {
            let lines = terminal(&join(), size)?;
            Some((lines.lines().next()?.matches('▀').count(), lines.lines().count()))
        };
        assert_eq!(columns((80, 30)), Some((53, 27)), "level M where the window allows");
        assert_eq!(columns((50, 30)), Some((45, 23)));
        assert_eq!(columns((44, 30)), None);
    }

    #[test]
    fn names_both_colours_of_every_cell() {
        let lines = terminal(&join(), (80, 30)).unwrap();
        for cell in lines.replace("\x1b[0m\n", "").split_inclusive('▀') {
            let codes = cell.trim_start_matches("\x1b[").trim_end_matches("m▀");
            let (front, back) = codes.split_once(';').unwrap();
            assert!(["30", "97"].contains(&front) && ["40", "107"].contains(&back), "{cell:?}");
        }
        assert!(svg(&join()).unwrap().contains("viewBox=\"0 0 53 53\""));
    }
}
