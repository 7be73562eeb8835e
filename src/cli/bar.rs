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
        self.show_job(progress.phase, progress.done, progress.total);
    }

    /// The same for a job, whose phase comes from the store.
    pub fn show_job(&self, phase: &str, done: u64, total: u64) {
        self.0.set_message(phase.to_owned());
        if total > 0 {
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
