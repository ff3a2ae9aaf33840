//! The import table of the house, as data.
//!
//! It mirrors ARCHITECTURE.md: change both together.

/// What one module of a crate may import.
pub(crate) struct Module {
    /// First segment after `crate::`.
    pub(crate) name: &'static str,
    /// Modules of the same crate; the module itself is always allowed.
    pub(crate) modules: &'static [&'static str],
    /// Paths into other crates of the workspace.
    pub(crate) paths: &'static [&'static str],
    /// Foreign crates that it must not name.
    pub(crate) without: &'static [&'static str],
}

/// One crate with a table.
pub(crate) struct Crate {
    /// Folder of its sources.
    pub(crate) folder: &'static str,
    /// Modules that everybody in the crate may import.
    pub(crate) foundation: &'static [&'static str],
    /// All modules; one that is missing here is an error.
    pub(crate) modules: &'static [Module],
}

const fn module(
    name: &'static str,
    modules: &'static [&'static str],
    paths: &'static [&'static str],
) -> Module {
    Module { name, modules, paths, without: &[] }
}

const IDS: &str = "weft_wire::id";

/// `peers`, `tunnel`, `datapath`, `path` and `control` never import one another.
pub(crate) const AGENT_CORE: Crate = Crate {
    folder: "agent-core/src",
    foundation: &[
        "time", "entropy", "empty", "buffer", "event", "config", "timer", "index", "ip", "meter",
    ],
    modules: &[
        module("time", &[], &[IDS]),
        module("entropy", &[], &["weft_noise::entropy"]),
        module("buffer", &[], &[IDS]),
        module("empty", &[], &[]),
        module("event", &[], &[IDS]),
        module("config", &[], &[IDS]),
        module("timer", &[], &[IDS]),
        module("index", &[], &[IDS]),
        module("ip", &[], &[IDS]),
        module("meter", &[], &[IDS]),
        module("filter", &[], &["weft_wire::map"]),
        module("tunnel", &[], &["weft_noise::wg", "weft_noise::key", "weft_noise::probe", IDS]),
        module("datapath", &["filter"], &["weft_noise::wg", "weft_wire::map", IDS]),
        module("stun", &[], &["weft_wire", "weft_noise::legacy"]),
        module("relay", &[], &["weft_wire", "weft_noise::legacy"]),
        module("path", &[], &["weft_wire"]),
        module(
            "control",
            &[],
            &["weft_wire", "weft_noise::sealed", "weft_noise::key", "weft_noise::mac"],
        ),
        module("peers", &[], &["weft_wire"]),
        module("netstack", &[], &[]),
        module(
            "agent",
            &[
                "filter", "tunnel", "datapath", "stun", "relay", "path", "control", "peers",
                "netstack",
            ],
            &["weft_wire", "weft_noise"],
        ),
    ],
};

/// `transport`, `jobs` → `service` → `domain`; `store` behind traits; `app` composes.
pub(crate) const COORDINATOR: Crate = Crate {
    folder: "coordinator/src",
    foundation: &["failure"],
    modules: &[
        module("failure", &[], &[]),
        // Bodies of the REST API, which the command line reads too.
        module("api", &["domain"], &["weft_wire"]),
        Module {
            name: "domain",
            modules: &[],
            paths: &[
                IDS,
                "weft_wire::map",
                "weft_wire::relay",
                "weft_wire::item::Standing",
                // How NATs and ways are called, and what is said of them.
                "weft_wire::path::Rung",
                "weft_wire::path::Way",
                "weft_wire::signal::Mapping",
                "weft_wire::traffic",
                "weft_wire::verdict",
                "weft_wire::WIREGUARD_PORT",
                "weft_noise::mac",
            ],
            without: &["tokio", "rusqlite", "axum"],
        },
        Module {
            name: "store",
            modules: &["domain"],
            paths: &[IDS, "weft_wire::map", "weft_wire::crc", "weft_noise::mac"],
            without: &["axum"],
        },
        Module {
            name: "service",
            modules: &["domain", "store"],
            paths: &["weft_wire", "weft_noise"],
            without: &["axum", "rusqlite"],
        },
        Module {
            name: "transport",
            modules: &["api", "domain", "service"],
            paths: &["weft_wire", "weft_noise"],
            without: &["rusqlite"],
        },
        Module {
            name: "jobs",
            modules: &["domain", "service"],
            paths: &[],
            without: &["axum", "rusqlite"],
        },
        Module {
            name: "config",
            modules: &["domain"],
            paths: &["weft_wire"],
            without: &["rusqlite"],
        },
        Module {
            name: "cli",
            modules: &["api", "config", "domain"],
            paths: &["weft_wire", "weft_noise"],
            without: &["rusqlite"],
        },
        Module {
            name: "app",
            modules: &["domain", "store", "service", "transport", "jobs", "config", "cli"],
            paths: &["weft_wire", "weft_noise", "weft_relay"],
            without: &[],
        },
    ],
};

/// Crate edges of the workspace: who may depend on whom, in any kind of dependency.
pub(crate) const EDGES: &[(&str, &[&str])] = &[
    ("weft-wire", &[]),
    ("weft-aead", &[]),
    ("weft-noise", &["weft-aead", "weft-wire"]),
    ("weft-agent-core", &["weft-noise", "weft-wire"]),
    ("weft-agent-linux", &["weft-agent-core", "weft-noise", "weft-wire"]),
    ("weft-agent-esp32", &["weft-agent-core", "weft-noise", "weft-wire"]),
    ("weft-coordinator", &["weft-noise", "weft-relay", "weft-wire"]),
    ("weft-relay", &["weft-noise", "weft-wire"]),
    ("xtask", &["weft-noise", "weft-wire"]),
];

/// Packages of `hil-tests`: they may depend on anything, and nobody on them
/// except one another.
pub(crate) const TESTERS: &[&str] =
    &["weft-fleet", "weft-fuzz", "weft-lab", "weft-sim", "weft-oracles"];

/// Crates that only `weft-noise` names: the one home of ciphers.
pub(crate) const CIPHERS: &[&str] =
    &["blake2", "chacha20poly1305", "hmac", "md-5", "ring", "sha1", "sha2", "x25519-dalek"];

/// Other implementations of WireGuard, and who may compare with them. Their
/// mock clocks are features and must not leak into a benchmark.
pub(crate) const PEERS: &[(&str, &[&str])] =
    &[("boringtun", &["weft-oracles", "xtask"]), ("gotatun", &["weft-oracles"])];

/// Where `unsafe` may stand: a file of that name or a folder.
pub(crate) const UNSAFE: &[&str] = &[
    "agent-esp32/boards",
    "agent-linux/src/net",
    "agent-linux/src/os",
    "hil-tests/lab/src/net",
    "relay/src/io",
];

/// Where SQL may stand.
pub(crate) const SQL: &str = "coordinator/src/store";
