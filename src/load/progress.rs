//! The line that is drawn over and over while a run goes on.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::results::Sample;

/// What the line looks like: `[=====>    ] 512/1000 served  12 s  connect  1000 connected, 1024 secrets`.
const TEMPLATE: &str = "[{bar:30}] {pos}/{len} served  {msg}";

/// How far a run is, on standard error if that is a terminal: standard output is the report's.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For a run of `proxies`; not `enabled`, nothing is ever drawn.
    pub fn new(proxies: u64, enabled: bool) -> Self {
        // indicatif draws nothing where standard error is no terminal.
        let target = if enabled { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self::on(target, proxies)
    }

    fn on(target: ProgressDrawTarget, proxies: u64) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(proxies), target).with_style(style.progress_chars("=> "));
        Self { bar }
    }

    /// The run is in `phase`, and in this state. May be called as often as samples are taken.
    pub fn update(&self, sample: &Sample, phase: &str) {
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
        let progress = Progress::on(ProgressDrawTarget::term_like(Box::new(paper.clone())), 10);
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
    fn nothing_is_drawn_if_not_wanted() {
        let progress = Progress::new(0, false);
        assert!(progress.bar.is_hidden());
        progress.update(&Sample { served: 5, ..SAMPLE }, "connect");
        progress.finish();
    }
}
