//! Progress bars, on a terminal only.

use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{SeekFrom, seek};

use super::output::Output;

const TICK: Duration = Duration::from_millis(100);
const WITH_TOTAL: &str = "{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
const WITHOUT_TOTAL: &str = "{spinner} {msg} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}";

/// Shows how far a transfer is. Gone from the screen when dropped.
#[derive(Clone)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar labelled `what`; of an unknown total if there is none.
    pub fn new(output: &Output, what: &str, total_bytes: Option<u64>) -> Self {
        if !output.shows_progress() {
            return Progress(None);
        }
        let bar = output.bars().add(ProgressBar::no_length());
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        let progress = Progress(Some(bar));
        progress.style(WITHOUT_TOTAL, output);
        if let Some(total) = total_bytes {
            progress.set_total(output, total);
        }
        progress
    }

    /// One that nobody sees.
    pub const fn hidden() -> Self {
        Progress(None)
    }

    fn style(&self, template: &str, output: &Output) {
        let template = if output.colour() {
            template.replace("{bar:30}", "{bar:30.cyan/blue}")
        } else {
            template.to_owned()
        };
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
            self.style(WITH_TOTAL, output);
            bar.set_length(total_bytes);
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
