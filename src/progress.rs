//! How far a long command is, on stderr: a bar on a terminal, a line now and then otherwise.
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::print_error;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    line_due: Instant,
}

impl Progress {
    /// From `begin` to `end`, in whatever unit: only their ratio is shown.
    pub(crate) fn start(begin: u64, end: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(end), target);
        // A constant; the other arm is never reached.
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent}%  {msg}  ETA {eta}") {
            bar.set_style(style);
        }
        bar.set_position(begin);
        bar.reset_eta();
        Self { bar, terminal, line_due: Instant::now() + LINE_EVERY }
    }

    /// Now at `position`; `text` says how much that is.
    pub(crate) fn show(&mut self, position: u64, text: impl FnOnce() -> String) {
        self.bar.set_position(position);
        if self.terminal {
            self.bar.set_message(text());
        } else if Instant::now() >= self.line_due {
            self.line_due = Instant::now() + LINE_EVERY;
            let percent = position.saturating_mul(100) / self.bar.length().unwrap_or_default().max(1);
            print_error(&format!("{percent}%, {}, {} to go", text(), HumanDuration(self.bar.eta())));
        }
    }

    /// Says something that does not pass away.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| print_error(text));
    }

    /// Nothing more comes.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
