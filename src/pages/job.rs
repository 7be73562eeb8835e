//! A job under way, as pages show it: a bar that the script moves, or that moves when the page loads anew.

use crate::store::{Job, JobState};

/// How often browsers without scripts load a page with a running job.
pub const REFRESH_SECONDS: u32 = 2;

/// What `job.html` shows.
#[derive(Debug, Clone)]
pub struct JobPanel {
    pub title: &'static str,
    pub state: &'static str,
    /// What is being done, and how much of it is.
    pub text: String,
    /// `None` while unknown.
    pub percent: Option<u64>,
    /// Server-sent events of the job.
    pub events_href: String,
}

impl JobPanel {
    /// `None` when the job is over.
    pub fn of(job: &Job) -> Option<Self> {
        let state = match job.state {
            JobState::Queued => "waiting for its turn",
            JobState::Running => "running",
            JobState::Done | JobState::Failed => return None,
        };
        let percent = (job.total > 0).then(|| (100 * job.done / job.total).min(100));
        let phase = job.phase.as_deref().unwrap_or("starting");
        Some(Self {
            title: title(&job.kind),
            state,
            text: match percent {
                Some(percent) => format!("{phase}: {percent}%"),
                None => format!("{phase} …"),
            },
            percent,
            events_href: format!("/v1/jobs/{}/events", job.id),
        })
    }
}

/// What a kind of job does, for its heading.
pub fn title(kind: &str) -> &'static str {
    match kind {
        "train" => "Training a model",
        "activate" => "Activating a model",
        "rollback" => "Going back to the model before",
        "import" => "Importing deals",
        "refresh" => "Scoring all open deals anew",
        _ => "Working",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn job(state: JobState, done: u64, total: u64) -> Job {
        Job {
            id: "7".into(),
            kind: "train".into(),
            state,
            phase: Some("matrix".into()),
            done,
            total,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            error: None,
            result: None,
        }
    }

    #[test]
    fn a_panel_is_there_while_the_job_is_not_over() {
        let panel = JobPanel::of(&job(JobState::Running, 1, 3)).unwrap();
        assert_eq!((panel.percent, &*panel.text), (Some(33), "matrix: 33%"));
        let panel = JobPanel::of(&job(JobState::Queued, 0, 0)).unwrap();
        assert_eq!((panel.percent, &*panel.text), (None, "matrix …"));
        assert!(JobPanel::of(&job(JobState::Done, 3, 3)).is_none());
    }
}
