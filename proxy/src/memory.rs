//! Memory that is free and still this process's.
//!
//! glibc gives back what is free at the end of its heap alone. After a burst of connections what they leave behind lies
//! between what stays, so that it must be asked to give back the pages in the middle, too.

#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// How long after the first connection that has given something up: what a burst leaves is given back at once.
const SOON: Duration = Duration::from_secs(2);

/// Gives free memory back to the kernel a little later, once for all who ask until then.
pub fn give_back_soon() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    if !ASKED.swap(true, Relaxed) {
        tokio::spawn(async {
            tokio::time::sleep(SOON).await;
            ASKED.store(false, Relaxed);
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
