//! Background tasks: none is detached, and the death of one that must not die ends the program.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks, tells them when to stop, and waits for them.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    died: mpsc::Sender<&'static str>,
}

/// Says when a task that must run for ever has ended by itself.
#[derive(Debug)]
pub struct Deaths(mpsc::Receiver<&'static str>);

impl Deaths {
    /// The name of the next task that has died; waits until there is one.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> (Self, Deaths) {
        let (died, deaths) = mpsc::channel(16);
        (Self { tracker: TaskTracker::new(), shutdown: CancellationToken::new(), died }, Deaths(deaths))
    }

    /// Runs `task` until it ends or shutdown begins, whichever is first.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        tokio::spawn(self.tracker.track_future(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        }));
    }

    /// Runs a task that has work to do after shutdown has begun: it watches [`Tasks::shutdown`] itself.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn spawn_to_end(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(task));
    }

    /// Runs a task without which the program is of no use: if it ends (or panics) before shutdown, [`Deaths`] says so.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn spawn_essential(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, died) = (self.shutdown.clone(), self.died.clone());
        let running = tokio::spawn(self.tracker.track_future({
            let shutdown = shutdown.clone();
            async move {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = task => {}
                }
            }
        }));
        tokio::spawn(self.tracker.track_future(async move {
            let ended = running.await;
            if !shutdown.is_cancelled() {
                tracing::error!(task = name, panicked = ended.is_err(), "a task that must not end has ended");
                // A full channel already holds the news that something died.
                let _ = died.try_send(name);
            }
        }));
    }

    /// Cancelled when shutdown begins.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Begins shutdown and waits for every task, at most `deadline` long. Says whether all of them ended.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_death_of_an_essential_task_is_told() {
        let (tasks, mut deaths) = Tasks::new();
        tasks.spawn_essential("short", async {});
        assert_eq!(deaths.next().await, "short");
    }

    #[tokio::test(start_paused = true)]
    async fn stop_waits_for_tasks_and_gives_up_at_the_deadline() {
        let (tasks, _deaths) = Tasks::new();
        tasks.spawn(std::future::pending());
        tasks.spawn_essential("long", std::future::pending());
        assert!(tasks.stop(Duration::from_secs(1)).await);
        let (tasks, _deaths) = Tasks::new();
        tasks.spawn_to_end(std::future::pending());
        assert!(!tasks.stop(Duration::from_secs(1)).await);
    }
}
