//! Pairs that something was taken from: behind boxes that let no direct way through,
//! and without a relay, with one that is killed, with one that takes no password; and
//! two on the open internet of whom one may not, is away, is out.

use std::fs;
use std::time::Duration;

use super::{Row, Said, Talk, pause, rows, said};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, Starting};
use crate::nat::Kind;
use crate::process::Process;
use crate::relay::Relay;
use crate::run::Run;
use crate::scenario::Stage;
use crate::site::SitePlan;

/// One line for each case: its name, what is asked for (`-` = anything), the
/// coordinator's code, the device's, the coordinator's sentence.
const TABLE: &str = include_str!("faults.txt");
/// What is taken from each pair, and the pair.
const FAULTS: [(&str, [&str; 2]); 3] = [
    ("no-relay", ["alone-a", "alone-b"]),
    ("relay-killed", ["left-a", "left-b"]),
    ("relay-refuses", ["shut-a", "shut-b"]),
];
/// The last two have one each.
const RELAYS: [&str; 2] = ["fra", "sgp"];
/// Those on the open internet, and one who asks to be let in.
const PLAIN: [&str; 2] = ["gw-c", "gw-d"];
const LATE: &str = "gw-e";
/// For what takes a moment.
const SOON: Duration = Duration::from_secs(20);

/// Packets of the pair may pass, whatever those on the open internet may.
const PAIR: &str = "[[rule]]\nfrom = \"role=pair\"\nto = \"role=pair\"\nallow = \"any\"\n";
const NOTHING: &str = "";
const BACK: &str = "[[rule]]\nfrom = \"role=d\"\nto = \"role=c\"\nallow = \"any\"\n";
const SHELL: &str = "[[rule]]\nname = \"shell\"\nfrom = \"role=c\"\nto = \"role=d\"\nallow = \
                     [\"icmp\", \"tcp/22\", \"udp/9\"]\n";

/// One pair with a coordinator of its own.
struct Net {
    row: Row,
    coordinator: Coordinator,
    a: Gateway,
    b: Gateway,
    talk: Talk,
    relay: Option<Relay>,
}

pub(super) struct Faults {
    internet: Internet,
    nets: Vec<Net>,
    plain: [Gateway; 2],
    /// What was said of those on the open internet.
    rows: Vec<Row>,
    late: Option<Process>,
}

impl Faults {
    pub(super) fn start(stage: &mut Stage<'_>) -> Result<Self> {
        let names = FAULTS.iter().flat_map(|(_, pair)| pair).zip(30_u8..);
        let site = |(name, number): (&&str, u8)| SitePlan {
            name: (*name).to_owned(),
            ..SitePlan::new(Kind::SymRand, number)
        };
        let sites: Vec<SitePlan> = names.map(site).collect();
        let hosts = [
            ("coord-0", 10),
            ("coord-1", 11),
            ("coord-2", 12),
            (RELAYS[0], 21),
            (RELAYS[1], 22),
            (PLAIN[0], 23),
            (PLAIN[1], 24),
            (LATE, 25),
        ];
        let plan = Plan { hosts: &hosts, sites: &sites, ..Plan::new("core-2", Families::Ipv4) };
        let internet = Internet::of(stage.run, &plan)?;
        let mut all = rows(TABLE)?;
        let mut nets = Vec::new();
        for (number, (name, pair)) in FAULTS.into_iter().enumerate() {
            let row = take(&mut all, name)?;
            nets.push(Net::start(stage.run, &internet, number, row, pair)?);
        }
        let first = &nets[0].coordinator;
        let join = |name: &str, role: &str| {
            let key = first.tagged_join_string(name, role)?;
            Starting::join(stage.run, internet.host(name)?, &key, "")
        };
        let plain = [join(PLAIN[0], "role=c")?, join(PLAIN[1], "role=d")?];
        let [c, d] = plain.map(Starting::ready);
        let mut faults = Self { internet, nets, plain: [c?, d?], rows: all, late: None };
        faults.take_away()?;
        faults.plain(stage.run)?;
        Ok(faults)
    }

    /// The relay of one pair dies; that of another knows nobody's password.
    fn take_away(&mut self) -> Result<()> {
        for net in &mut self.nets {
            let Some(relay) = &mut net.relay else { continue };
            wait_until(SOON, "the relay carries the pair", || {
                net.talk.send();
                Ok(net.a.peer(net.b.name())?["path"]["kind"] == "relay")
            })?;
            relay.process.kill()?;
            if net.row.of[0] == "relay-refuses" {
                relay.change_secret()?;
                relay.restart()?;
            }
        }
        Ok(())
    }

    /// What those on the open internet are told of each other, at once.
    fn plain(&mut self, run: &Run) -> Result<()> {
        for (policy, name) in [(NOTHING, "no-rule"), (BACK, "other-way"), (SHELL, "other-port")] {
            set_policy(run, &self.nets[0].coordinator, policy)?;
            self.expect(name, PLAIN[1])?;
        }
        let key = self.nets[0].coordinator.approving_join_string(LATE, "role=d")?;
        let late = Starting::join(run, self.internet.host(LATE)?, &key, "")?;
        late.says(SOON, "waiting")?;
        self.late = Some(late.process());
        self.expect("waits-for-approval", LATE)?;
        self.plain[1].process.kill()?;
        self.expect("peer-killed", PLAIN[1])?;
        let block = ["device", "block", PLAIN[1], "--reason", "stolen", "--yes"];
        self.nets[0].coordinator.command("block", &block)?;
        self.expect("peer-blocked", PLAIN[1])
    }

    /// Lets the first talk to the second until the table's words are said.
    fn expect(&mut self, name: &str, of: &str) -> Result<()> {
        let Self { nets, plain: [c, d], rows, .. } = self;
        let found = rows.iter_mut().find(|row| row.of[0] == name);
        let row = found.ok_or_else(|| Failure::new("lab.internal", format!("no row {name}")))?;
        let talk = Talk::start(c, d)?;
        let traffic = Some(row.of[1]).filter(|traffic| *traffic != "-");
        let asked: Vec<&str> = [of].into_iter().chain(traffic).collect();
        let began = clock::now();
        // What is said instead is told at the end, with all others.
        while !row.is_met() && began.elapsed() < SOON {
            nets.iter().for_each(|net| net.talk.send());
            talk.send();
            pause()?;
            row.look(said_of(&nets[0].coordinator, c, &asked)?);
        }
        Ok(())
    }

    /// One packet of each pair whose words are not those of the table yet.
    pub(super) fn send(&self) {
        self.nets.iter().filter(|net| !net.row.is_met()).for_each(|net| net.talk.send());
    }

    /// Looks what is said of each of these.
    pub(super) fn look(&mut self) -> Result<()> {
        for net in self.nets.iter_mut().filter(|net| !net.row.is_met()) {
            net.row.look(said_of(&net.coordinator, &net.a, &[net.b.name()])?);
        }
        Ok(())
    }

    pub(super) fn is_met(&self) -> bool {
        self.nets.iter().all(|net| net.row.is_met())
    }

    /// All rows, and what runs until the laboratory ends it.
    pub(super) fn end(self) -> (Vec<Row>, Vec<Process>) {
        let mut processes: Vec<Process> = self.plain.map(|gateway| gateway.process).into();
        processes.extend(self.late);
        let mut rows = Vec::new();
        for Net { row, coordinator, a, b, relay, .. } in self.nets {
            rows.push(row);
            processes.extend([coordinator.process, a.process, b.process]);
            processes.extend(relay.map(|relay| relay.process));
        }
        rows.extend(self.rows);
        (rows, processes)
    }
}

fn take(rows: &mut Vec<Row>, name: &str) -> Result<Row> {
    let found = rows.iter().position(|row| row.of[0] == name);
    let missing = || Failure::new("lab.internal", format!("no row {name}"));
    Ok(rows.remove(found.ok_or_else(missing)?))
}

fn said_of(coordinator: &Coordinator, from: &Gateway, asked: &[&str]) -> Result<Said> {
    let joined = coordinator.why(&[&[from.name()], asked].concat())?;
    said(&joined, &from.why(asked)?)
}

fn set_policy(run: &Run, coordinator: &Coordinator, further: &str) -> Result<()> {
    let file = run.folder().join("policy-2.toml");
    fs::write(&file, format!("{PAIR}{further}")).during("write a policy")?;
    coordinator.command("policy", &["policy", "set", &file.display().to_string()]).map(drop)
}

impl Net {
    fn start(
        run: &Run,
        internet: &Internet,
        number: usize,
        row: Row,
        pair: [&str; 2],
    ) -> Result<Self> {
        let host = internet.host(&format!("coord-{number}"))?;
        let relay = match number.checked_sub(1).and_then(|number| RELAYS.get(number)) {
            None => None,
            Some(name) => {
                let at = internet.host(name)?;
                Some(Relay::start(run, at, &[at.ipv4()])?)
            }
        };
        let section = relay.as_ref().map_or("", |relay| &relay.section);
        let coordinator = Coordinator::start_with(run, host, host.ipv4(), Vec::new(), section)?;
        let join = |name: &str| {
            let key = coordinator.tagged_join_string(name, "role=pair")?;
            Starting::join(run, internet.site(name)?.host(), &key, "")
        };
        let [a, b] = [join(pair[0])?, join(pair[1])?].map(Starting::ready);
        let (a, b) = (a?, b?);
        let talk = Talk::start(&a, &b)?;
        Ok(Self { row, coordinator, a, b, talk, relay })
    }
}
