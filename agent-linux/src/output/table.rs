//! Tables that fit the terminal: columns have a rank, and the lowest goes first.
//! Name, address and path are never dropped nor shortened. In a pipe nothing is
//! dropped.

use anstyle::Style;

use crate::output::{paint, style};

/// A column's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// [`ALWAYS`], or the lower the sooner it is dropped.
    pub(crate) rank: u8,
}

/// The rank of a column that stays.
pub(crate) const ALWAYS: u8 = u8::MAX;

/// A cell: its text and what colour says about it.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn new(style: Style, text: impl Into<String>) -> Self {
        Self { text: text.into(), style }
    }

    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::new(style::PLAIN, text)
    }
}

const GAP: usize = 2;

/// Draws the head and the rows. `width` is the terminal's, `None` in a pipe.
pub(crate) fn draw(columns: &[Column], rows: &[Vec<Cell>], width: Option<usize>) -> Vec<String> {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().filter_map(|row| row.get(at));
            let widest = cells.map(|cell| cell.text.chars().count()).max();
            widest.unwrap_or(0).max(column.title.len())
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let fits = |shown: &[usize]| {
        let cells: usize = shown.iter().map(|&at| widths[at] + GAP).sum();
        width.is_none_or(|width| cells.saturating_sub(GAP) <= width)
    };
    while !fits(&shown) {
        let droppable = shown.iter().filter(|&&at| columns[at].rank != ALWAYS);
        let Some(&lowest) = droppable.min_by_key(|&&at| columns[at].rank) else {
            break;
        };
        shown.retain(|&at| at != lowest);
    }
    let line = |cell: &dyn Fn(usize) -> (String, Style)| {
        let mut out = String::new();
        for (position, &at) in shown.iter().enumerate() {
            let (text, style) = cell(at);
            let last = position + 1 == shown.len();
            let pad = if last { 0 } else { widths[at] - text.chars().count() + GAP };
            if style == style::PLAIN {
                out.push_str(&text);
            } else {
                out.push_str(&paint(style, text));
            }
            out.extend(core::iter::repeat_n(' ', pad));
        }
        out.truncate(out.trim_end().len());
        out
    };
    let head = line(&|at| (columns[at].title.to_owned(), style::PLAIN));
    let body = rows.iter().map(|row| {
        line(&|at| {
            row.get(at).map_or_else(Default::default, |cell| (cell.text.clone(), cell.style))
        })
    });
    core::iter::once(head).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column { title: "PEER", rank: ALWAYS },
        Column { title: "ADDRESS", rank: ALWAYS },
        Column { title: "RTT", rank: 2 },
        Column { title: "VERSION", rank: 1 },
    ];

    fn rows() -> Vec<Vec<Cell>> {
        let row = |cells: [&str; 4]| cells.map(Cell::plain).to_vec();
        vec![
            row(["gw-b", "100.93.0.3", "20.4 ms", "0.1.0"]),
            row(["bench-sensor", "100.93.0.4", "–", "0.1.0"]),
        ]
    }

    #[test]
    fn columns_line_up_and_nothing_trails() {
        assert_eq!(
            draw(&COLUMNS, &rows(), None),
            [
                "PEER          ADDRESS     RTT      VERSION",
                "gw-b          100.93.0.3  20.4 ms  0.1.0",
                "bench-sensor  100.93.0.4  –        0.1.0",
            ]
        );
    }

    #[test]
    fn the_lowest_rank_goes_first_and_names_stay() {
        for (width, head) in [
            (42, "PEER          ADDRESS     RTT      VERSION"),
            (41, "PEER          ADDRESS     RTT"),
            (30, "PEER          ADDRESS"),
            (3, "PEER          ADDRESS"),
        ] {
            assert_eq!(draw(&COLUMNS, &rows(), Some(width))[0], head);
        }
    }
}
