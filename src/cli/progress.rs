//! Progress bars, on a terminal only.

use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::fs::{SeekFrom, seek};

use super::output::Output;

const TICK: Duration = Duration::from_millis(100);
/// Columns of a terminal that does not say how many it has.
const COLUMNS: u16 = 80;
/// Columns of everything but the bar itself, at its widest.
const AROUND_BAR: u16 = 68;
/// A bar that is shorter tells nothing, a longer one nothing more.
const BAR: std::ops::RangeInclusive<u16> = 6..=40;

/// Shows how far a transfer is. Gone from the screen when dropped.
#[derive(Clone)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar labelled `what`; of an unknown total if there is none.
    pub fn new(output: &Output, what: &str, total_bytes: Option<u64>) -> Self {
        if !output.shows_progress() {
            return Progress(None);
        }
        // Complete before it is drawn for the first time.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(what.to_owned());
        let progress = Progress(Some(bar.clone()));
        progress.style(template(total_bytes.is_some(), columns(), output.colour()));
        if let Some(total) = total_bytes {
            bar.set_length(total);
        }
        output.bars().add(bar.clone());
        bar.enable_steady_tick(TICK);
        progress
    }

    /// One that nobody sees.
    pub const fn hidden() -> Self {
        Progress(None)
    }

    fn style(&self, template: String) {
        if let (Some(bar), Ok(style)) = (&self.0, ProgressStyle::with_template(&template)) {
            bar.set_style(style);
        }
    }

    /// Whether anybody sees it.
    pub const fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// Now the total is known.
    pub fn set_total(&self, output: &Output, total_bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total_bytes);
            self.style(template(true, columns(), output.colour()));
        }
    }

    /// So many bytes are done.
    pub fn set(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }

    /// Follows the position of `file`, which another process moves, for as long as `work` takes.
    pub async fn follow<T>(&self, file: impl AsFd, work: impl Future<Output = T>) -> T {
        let Some(bar) = &self.0 else {
            return work.await;
        };
        let watch = async {
            loop {
                // Only a display: without a position it stays where it is.
                if let Ok(position) = seek(&file, SeekFrom::Current(0)) {
                    bar.set_position(position);
                }
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            never = watch => never,
        }
    }

    /// Takes it from the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Columns of the terminal behind the standard error.
fn columns() -> u16 {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok()
        .map(|size| size.ws_col)
        .filter(|columns| *columns > 0)
        .unwrap_or(COLUMNS)
}

/// What fits on one line of so many columns: a line that wraps is drawn again and again.
fn template(has_total: bool, columns: u16, is_coloured: bool) -> String {
    let bar = columns.saturating_sub(AROUND_BAR).min(*BAR.end());
    if !has_total {
        return match columns {
            46.. => "{spinner} {msg} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
            26.. => "{msg} {binary_bytes}",
            _ => "{binary_bytes}",
        }
        .to_owned();
    }
    if bar >= *BAR.start() {
        let colour = if is_coloured { ".cyan/blue" } else { "" };
        return format!(
            "{{spinner}} {{msg}} [{{bar:{bar}{colour}}}] {{binary_bytes}}/{{binary_total_bytes}}  \
             {{binary_bytes_per_sec}}  {{eta}} left"
        );
    }
    match columns {
        66.. => {
            "{spinner} {msg} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
        }
        40.. => "{msg} {percent:>3}%  {binary_bytes_per_sec}  {eta} left",
        16.. => "{msg} {percent:>3}%",
        _ => "{percent}%",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// Keeps what is drawn.
    #[derive(Debug, Clone)]
    struct Paper {
        columns: u16,
        drawn: Arc<Mutex<String>>,
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            self.columns
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.write_str("\n")
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.drawn.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.drawn.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_is_one_line_on_every_terminal() {
        for columns in 12..=220 {
            for total in [None, Some(0), Some(1), Some(1_073_741_000_000)] {
                let paper = Paper {
                    columns,
                    drawn: Arc::default(),
                };
                let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
                let bar = ProgressBar::with_draw_target(None, target);
                let progress = Progress(Some(bar.clone()));
                progress.style(template(total.is_some(), columns, false));
                bar.set_message("getting");
                if let Some(total) = total {
                    bar.set_length(total);
                }
                paper.drawn.lock().unwrap().clear();
                bar.set_position(1_048_473_000_000.min(total.unwrap_or(u64::MAX)));
                bar.force_draw();
                let drawn = paper.drawn.lock().unwrap().clone();
                let shown = drawn.trim_end();
                assert!(!shown.is_empty(), "{columns}");
                assert!(
                    !shown.contains('\n') && shown.chars().count() <= usize::from(columns),
                    "{columns}: {shown:?}"
                );
                if total.is_some() && columns >= 74 {
                    assert!(shown.contains('['), "{columns}: {shown}");
                }
            }
        }
    }
}
