//! Progress of long work, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::Progress;

/// A bar on standard error; nothing where that is not a terminal. Gone when dropped.
pub struct Bar(ProgressBar);

impl Bar {
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {eta}")
            .expect("a fixed template");
        Self(ProgressBar::no_length().with_style(style))
    }

    pub fn show(&self, progress: Progress) {
        self.0.set_message(progress.phase);
        if progress.total > 0 {
            self.0.set_length(progress.total);
        }
        self.0.set_position(progress.done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
