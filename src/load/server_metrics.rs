//! How many certificates the server has issued, as it says itself: this server's `/metrics`, which others do not have.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take; the server may have a storm to see to.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer is not read beyond this.
const LONGEST: u64 = 16 << 20;

/// The server's admin address.
#[derive(Debug, Clone)]
pub(crate) struct ServerMetrics {
    /// `host:port`.
    address: String,
    before: Counts,
}

/// What is read of a page of metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counts {
    /// Certificates, since the server started.
    issued: f64,
    /// When that was, in Unix seconds.
    started: f64,
}

impl ServerMetrics {
    /// Looks for the first time.
    ///
    /// # Errors
    /// If there is no such page.
    pub(crate) async fn open(address: String) -> Result<Self, String> {
        let before = look(&address).await.map_err(|why| format!("{why} (--server-admin)"))?;
        Ok(Self { address, before })
    }

    /// How many were issued since this was asked for last; by a server that was started meanwhile, since then.
    ///
    /// # Errors
    /// Why that cannot be known.
    pub(crate) async fn issued(&mut self) -> Result<u64, String> {
        let now = look(&self.address).await?;
        let before = std::mem::replace(&mut self.before, now);
        Ok(since(before, now))
    }
}

fn since(before: Counts, now: Counts) -> u64 {
    let known = if before.started == now.started { before.issued } else { 0.0 };
    (now.issued - known).max(0.0) as u64
}

async fn look(address: &str) -> Result<Counts, String> {
    let page = timeout(PATIENCE, get(address)).await;
    let page = page.map_err(|_late| std::io::Error::from(std::io::ErrorKind::TimedOut)).and_then(|page| page);
    let page = page.map_err(|error| format!("the server's metrics at {address} cannot be read: {error}"))?;
    counts(&page).ok_or_else(|| format!("{address} does not answer with this server's metrics"))
}

/// HTTP/1.0: the answer ends with the connection.
async fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// `None` if it is another server's, or no page at all.
fn counts(answer: &str) -> Option<Counts> {
    let (head, page) = answer.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let samples = || page.lines().filter_map(|line| line.rsplit_once(' '));
    let is_issued =
        |series: &str| series.starts_with("envoy_sds_issuances_total{") && series.contains("outcome=\"issued\"");
    let started = samples().find(|(series, _)| *series == "envoy_sds_start_time_seconds")?.1.parse().ok()?;
    let issued =
        samples().filter(|(series, _)| is_issued(series)).filter_map(|(_, value)| value.parse::<f64>().ok()).sum();
    Some(Counts { issued, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_issued_is_summed_up_and_a_new_start_is_noticed() {
        let page = "HTTP/1.0 200 OK\r\ncontent-type: text\r\n\r\n# HELP x y\nenvoy_sds_start_time_seconds 1800000000.5\n\
                    envoy_sds_issuances_total{mesh=\"a\",backend=\"b\",outcome=\"issued\"} 7\n\
                    envoy_sds_issuances_total{mesh=\"b\",backend=\"b\",outcome=\"issued\"} 5\n\
                    envoy_sds_issuances_total{mesh=\"a\",backend=\"b\",outcome=\"denied\"} 3\n";
        let first = counts(page).unwrap();
        assert_eq!(first, Counts { issued: 12.0, started: 1_800_000_000.5 });
        assert_eq!(since(first, Counts { issued: 20.0, ..first }), 8);
        assert_eq!(
            since(first, Counts { issued: 12.0, started: 1_800_000_009.0 }),
            12,
            "all again, by another process"
        );
        for other in ["", "HTTP/1.0 404 Not Found\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\ngo_goroutines 3\n"] {
            assert_eq!(counts(other), None, "{other}");
        }
    }
}
