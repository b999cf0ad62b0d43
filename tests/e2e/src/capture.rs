//! What went over the wire between the pods of a world.
//!
//! `tcpdump` in the world's node namespace, through which every packet from pod to pod goes.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{Running, World, until};

const LIMIT: Duration = Duration::from_secs(15);

/// A capture that runs.
pub struct Capture {
    tcpdump: Running,
    file: PathBuf,
}

impl Capture {
    /// Returns when packets are being captured.
    pub fn start(world: &World, name: &str) -> Result<Self> {
        let file = world.dir().join(format!("{name}.pcap"));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", world.node_netns())).arg("tcpdump");
        command.args(["-i", "any", "-s", "0", "-U", "-Z", "root", "--immediate-mode", "-w"]).arg(&file);
        let tcpdump = Running::start(command)?;
        until("tcpdump listens", LIMIT, || match tcpdump.written()? {
            said if said.contains("listening on") => Ok(()),
            said => bail!("tcpdump says: {said}"),
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Every byte captured.
    pub fn bytes(self) -> Result<Vec<u8>> {
        self.tcpdump.interrupt(LIMIT)?;
        Ok(std::fs::read(&self.file)?)
    }

    /// Whether the text is in a capture.
    pub fn shows(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}
