//! The chip of the story: an emulated microcontroller behind a home router, whose status
//! page comes through the tunnel. A machine that cannot have one hears the rest.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Stage;
use crate::chip::{self, Chip, page};
use crate::clock;
use crate::failure::{Failure, Result, status};
use crate::internet::Internet;
use crate::mesh::Gateway;
use crate::nat::Kind;
use crate::process::find_program;
use crate::site::SitePlan;
use crate::ui;

/// Its router, and the last number of that one's public address.
const HOME: (&str, u8) = ("home", 40);
const NAME: &str = "chip";

/// What the story has of a chip.
pub(super) enum Part {
    /// Its firmware.
    Played(PathBuf),
    /// Why there is none.
    LeftOut(String),
}

impl Part {
    /// Whether this machine can have one.
    ///
    /// # Errors
    ///
    /// The firmware cannot be built.
    pub(super) fn new() -> Result<Self> {
        if find_program("nft").is_none() {
            return Ok(Self::LeftOut("the program nft is missing (nftables)".to_owned()));
        }
        match chip::built() {
            Ok(firmware) => Ok(Self::Played(firmware)),
            Err(failure) if failure.status() == status::SKIPPED => {
                Ok(Self::LeftOut(failure.message().to_owned()))
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) const fn is_played(&self) -> bool {
        matches!(self, Self::Played(_))
    }

    /// What the suite is told of it.
    pub(super) fn skipped(&self) -> Vec<Value> {
        match self {
            Self::Played(_) => Vec::new(),
            Self::LeftOut(reason) => vec![json!({"name": "demo-chip", "reason": reason})],
        }
    }

    /// The router that it is behind.
    pub(super) fn sites(&self) -> Vec<SitePlan> {
        let home =
            SitePlan { name: HOME.0.to_owned(), hosts: 0, ..SitePlan::new(Kind::Prc, HOME.1) };
        if self.is_played() { vec![home] } else { Vec::new() }
    }

    /// It joins, and the page is fetched by a gateway and shown.
    pub(super) fn tell(
        &self,
        stage: &mut Stage<'_>,
        internet: &Internet,
        key: &str,
        gateway: &Gateway,
    ) -> Result<Option<Told>> {
        let firmware = match self {
            Self::Played(firmware) => firmware,
            Self::LeftOut(reason) => {
                stage.story.skipped(NAME, &format!("{reason}; try  cross/setup demo"));
                return Ok(None);
            }
        };
        let site = internet.site(HOME.0)?;
        let mut chip = Chip::new(stage.run, site, (NAME, 1), key, firmware)?;
        let link = chip.start()?;
        let [ipv4, ipv6] = chip.joined()?;
        let joined = link.elapsed();
        let text = format!("{ipv4}  {ipv6}");
        stage.story.done(&format!("{NAME} joined"), &text, Some(joined));
        // Once they know each other, the page is what is measured.
        gateway.ping(NAME)?;
        let kind = gateway.peer(NAME)?["path"]["kind"].as_str().unwrap_or_default().to_owned();
        let began = clock::now();
        let page = page(gateway.namespace(), ipv4)?;
        let took = began.elapsed();
        if kind != "direct" {
            return Err(Failure::expectation(format!(
                "the path to the chip is {kind}, not direct"
            )));
        }
        let text = format!("{} → http://{ipv4}/", gateway.name());
        stage.story.done(&format!("{NAME}'s page"), &text, Some(took));
        stage.story.line("");
        page.lines().for_each(|line| stage.story.line(&format!("  | {line}")));
        Ok(Some(Told { chip, page, address: ipv4.to_string(), joined, took }))
    }
}

/// A chip that joined, and what it says of itself.
pub(super) struct Told {
    chip: Chip,
    page: String,
    address: String,
    joined: Duration,
    took: Duration,
}

impl Told {
    /// How a person fetches it.
    pub(super) fn hint(&self, gateway: &Gateway) -> String {
        let namespace = gateway.namespace().name();
        format!("sudo ip netns exec {namespace} curl http://{}/", self.address)
    }

    pub(super) fn summary(&self) -> String {
        let (joined, took) = (ui::span(self.joined), ui::span(self.took));
        format!("a member {joined} after its link was up, page in {took}")
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "joined_ms": self.joined.as_millis() as u64,
            "page_ms": self.took.as_millis() as u64,
            "page": self.page.lines().map(str::trim_end).collect::<Vec<_>>(),
        })
    }

    /// Power off.
    pub(super) fn end(mut self) -> Result<()> {
        self.chip.kill()
    }
}
