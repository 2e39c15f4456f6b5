//! The line that is drawn over and over while a run goes on.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::results::Sample;

/// What the line looks like: `[=====>    ] 512/1000 served  12 s  connect  1000 connected, 1024 secrets`.
const TEMPLATE: &str = "[{bar:30}] {pos}/{len} served  {msg}";

/// Where nothing can be drawn over, a line for each phase, and another this often.
const LINE_EVERY_SECONDS: f64 = 30.0;

/// How far a run is, on standard error: standard output is the report's. A bar if that is a terminal, else a line now and then.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

/// What the last line said.
#[derive(Debug, Default)]
struct Lines {
    phase: String,
    at_seconds: f64,
}

impl Lines {
    /// The line for this state, if there is to be one.
    fn next(&mut self, sample: &Sample, phase: &str) -> Option<String> {
        if self.phase == phase && sample.at_seconds - self.at_seconds < LINE_EVERY_SECONDS {
            return None;
        }
        *self = Self { phase: phase.to_owned(), at_seconds: sample.at_seconds };
        Some(format!("{} served  {}\n", sample.served, message(sample, phase)))
    }
}

impl Progress {
    /// For a run of `proxies`; not `enabled`, nothing is ever drawn.
    pub fn new(proxies: u64, enabled: bool) -> Self {
        // indicatif draws nothing where standard error is no terminal.
        let target = if enabled { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let lines = (enabled && !io::stderr().is_terminal()).then(Lines::default);
        Self { lines, ..Self::on(target, proxies) }
    }

    fn on(target: ProgressDrawTarget, proxies: u64) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(proxies), target).with_style(style.progress_chars("=> "));
        Self { bar, lines: None }
    }

    /// The run is in `phase`, and in this state. May be called as often as samples are taken.
    pub fn update(&mut self, sample: &Sample, phase: &str) {
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.next(sample, phase)) {
            // Nobody may be there to read it: the report is what counts.
            let _ = io::stderr().write_all(line.as_bytes());
        }
        self.bar.set_position(sample.served);
        self.bar.set_message(message(sample, phase));
    }

    /// The run is over: the line is taken away, as the report says more.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn message(sample: &Sample, phase: &str) -> String {
    let Sample { at_seconds, connected, secrets, failures, .. } = sample;
    let mut text = format!("{at_seconds:.0} s  {phase}  {connected} connected, {secrets} secrets");
    if *failures > 0 {
        text.push_str(&format!(", {failures} failures"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers what was written.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            120
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
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    const SAMPLE: Sample = Sample {
        at_seconds: 12.4,
        connected: 9,
        served: 5,
        secrets: 12,
        failures: 0,
        server_cpu_seconds: None,
        server_rss_bytes: None,
    };

    #[test]
    fn the_line_says_the_phase_and_how_many_are_served() {
        let paper = Paper::default();
        let mut progress = Progress::on(ProgressDrawTarget::term_like(Box::new(paper.clone())), 10);
        progress.update(&SAMPLE, "connect");
        progress.bar.force_draw();
        let line = paper.0.lock().unwrap().trim_end().to_owned();
        assert_eq!(line, "[===============>              ] 5/10 served  12 s  connect  9 connected, 12 secrets");
        progress.finish();
        assert_eq!(paper.0.lock().unwrap().as_str(), "", "the report has the terminal for itself");
    }

    #[test]
    fn failures_are_told_as_soon_as_there_are_some() {
        let text = message(&Sample { failures: 3, ..SAMPLE }, "storm-1");
        assert_eq!(text, "12 s  storm-1  9 connected, 12 secrets, 3 failures");
    }

    #[test]
    fn without_a_terminal_there_is_a_line_for_each_phase_and_for_each_half_minute() {
        let mut lines = Lines::default();
        let mut next = |at_seconds, phase| lines.next(&Sample { at_seconds, ..SAMPLE }, phase);
        assert_eq!(next(0.1, "connect").unwrap(), "5 served  0 s  connect  9 connected, 12 secrets\n");
        assert_eq!((next(0.6, "connect"), next(30.0, "connect")), (None, None));
        assert!(next(30.2, "connect").unwrap().starts_with("5 served  30 s  connect"));
        assert!(next(30.7, "storm").is_some());
        assert_eq!(next(60.0, "storm"), None);
    }

    #[test]
    fn nothing_is_drawn_if_not_wanted() {
        let mut progress = Progress::new(0, false);
        assert!(progress.bar.is_hidden() && progress.lines.is_none());
        progress.update(&Sample { served: 5, ..SAMPLE }, "connect");
        progress.finish();
    }
}
