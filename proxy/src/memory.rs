//! Memory that is free and still this process's.
//!
//! glibc gives back what is free at the end of its heap alone. After a burst of connections what they leave behind lies
//! between what stays, so that it must be asked to give back the pages in the middle, too.

#![allow(unsafe_code)]

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

/// How long after the first connection that has given something up: what a burst leaves is given back at once.
const SOON: Duration = Duration::from_secs(2);
/// How long after the last time at least: to look through the whole heap takes a millisecond for each few MiB.
const APART: Duration = Duration::from_secs(10);

/// Gives free memory back to the kernel a little later, once for all who ask until then.
pub fn give_back_soon() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever asks while the runtime ends has nobody who could do it, and needs nobody.
    let Ok(runtime) = Handle::try_current() else { return };
    if !ASKED.swap(true, Relaxed) {
        let rest = last().map_or(Duration::ZERO, |last| APART.saturating_sub(last.elapsed()));
        runtime.spawn(async move {
            tokio::time::sleep(rest.max(SOON)).await;
            ASKED.store(false, Relaxed);
            *last() = Some(Instant::now());
            give_back();
        });
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer, locks what it looks at, and may be called at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_in_use_stays_as_it_was() {
        let kept: Vec<Vec<u8>> = (0..200u8).map(|fill| vec![fill; 10_000]).collect();
        drop((0..200u8).map(|fill| vec![fill; 10_000]).collect::<Vec<_>>());
        give_back_soon();
        tokio::time::sleep(2 * SOON).await;
        give_back();
        assert!(kept.iter().zip(0..).all(|(bytes, fill)| *bytes == [fill; 10_000]));
    }
}
