//! Where the access log's lines go: to standard output, by a thread of its own, so that a slow reader of the log never
//! makes a request wait.
//!
//! Trips: the queue is full, because nobody reads. Lines are then dropped, and counted. Recovers by itself.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tracing::error;

use crate::config::AccessLog;

/// Lines that wait at most: at some 700 bytes each, less than a MiB.
const QUEUE: usize = 1024;
/// How long lines are gathered before they are written: a hundred wake-ups a second, however many requests.
const GATHER: Duration = Duration::from_millis(10);
/// How long the last lines may take.
const LAST: Duration = Duration::from_secs(1);

/// The open log.
pub struct Log {
    /// Whether only errors are written.
    pub errors_only: bool,
    queue: SyncSender<Message>,
    dropped: Counter,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Log {
    /// Opens the log, unless it is to be off.
    pub fn open(mode: AccessLog, dropped: &Counter) -> Option<Self> {
        match mode {
            AccessLog::Off => None,
            AccessLog::Errors => Self::start(true, dropped.clone()),
            AccessLog::All => Self::start(false, dropped.clone()),
        }
    }

    fn start(errors_only: bool, dropped: Counter) -> Option<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("access-log".into()).stack_size(128 * 1024);
        let started = thread.spawn({
            let dropped = dropped.clone();
            move || write(&lines, io::stdout(), &dropped)
        });
        match started {
            Ok(_) => Some(Self { errors_only, queue, dropped }),
            Err(error) => {
                error!(%error, "there is no access log");
                None
            }
        }
    }

    /// Writes a line some time soon, or counts that it could not.
    pub fn line(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Returns when what was logged before is written, or after a second.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            // Nobody reads the log: then there is nothing to wait for.
            let _ = written.recv_timeout(LAST);
        }
    }
}

/// Writes lines as they come, many at a time, until nobody can send any more.
fn write(lines: &Receiver<Message>, mut to: impl io::Write, dropped: &Counter) {
    let mut batch = Vec::new();
    while let Ok(first) = lines.recv() {
        thread::sleep(GATHER);
        let mut flush = None;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.push(line),
                Message::Flush(done) => flush = Some(done),
            }
            next = if flush.is_some() { None } else { lines.try_recv().ok() };
        }
        if to.write_all(&batch.concat()).and_then(|()| to.flush()).is_err() {
            dropped.inc_by(batch.len() as u64);
        }
        batch.clear();
        if let Some(done) = flush {
            // Who asked may have given up.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Takes what is written, once `open` is free.
    struct Slow {
        open: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl io::Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.open.lock().expect("lock");
            self.written.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_costs_lines_and_no_time_and_every_lost_line_is_counted() {
        let (open, written) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let (queue, lines) = sync_channel(QUEUE);
        let log = Log { errors_only: false, queue, dropped: Counter::default() };
        let slow = Slow { open: Arc::clone(&open), written: Arc::clone(&written) };
        let closed = open.lock().expect("lock");
        let writer = thread::spawn(move || write(&lines, slow, &Counter::default()));
        let lines = 200_000_u64;
        (0..lines).for_each(|_| log.line(b"{}\n".to_vec()));
        drop(closed);
        log.flush();
        let dropped = log.dropped.get();
        drop(log);
        writer.join().expect("the writer ends");
        let written = written.lock().expect("lock").len() as u64 / 3;
        assert!(dropped > 0, "nobody read meanwhile");
        assert_eq!(written + dropped, lines);
    }
}
