//! `coordinator-key show`, `coordinator-key announce`; the flags of
//! `coordinator-key switch`, which needs the files and not the server.

use clap::{Args as ClapArgs, Subcommand};

use crate::api;
use crate::failure::Failure;

use super::format::moment;
use super::remote::Context;
use super::ui;

const PATH: &str = "/api/v1/coordinator/key";

/// What to do with the key that devices know this coordinator by.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the current and the next key, and which devices have heard of it
    Show,
    /// Tell every device the next key
    Announce,
    /// Make the next key the current one; the server must not run
    Switch(Switch),
}

/// Flags of `coordinator-key switch`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The recovery key gives the key that comes next; the key file does not hold what
could give it. Everything else in the key file stays: no device has to enrol
again that has heard the announcement. Join strings from before the announcement
end. Copies of the key file are out of date afterwards; the recovery key is not.")]
pub(crate) struct Switch {
    /// The recovery key that init printed; `-` reads it from standard input,
    /// where no other user sees it
    #[arg(long, value_name = "WREC1-…")]
    pub(crate) recovery_key: String,
    /// Go on although active devices have not heard the announcement; they have
    /// to join anew
    #[arg(long)]
    pub(crate) cut_off: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

pub(super) async fn run(context: &Context<'_>, command: &Command) -> Result<u8, Failure> {
    let key: api::CoordinatorKey = match command {
        Command::Show | Command::Switch(_) => context.client.get(PATH).await?,
        Command::Announce => {
            context.client.post(&format!("{PATH}/announce"), &serde_json::json!({})).await?
        }
    };
    if context.json {
        ui::json("weft.coordinator-key/1", &key);
    } else if context.quiet {
        ui::out(if matches!(command, Command::Announce) { &key.next } else { &key.current });
    } else {
        lines(&key).iter().for_each(ui::out);
    }
    Ok(0)
}

fn lines(key: &api::CoordinatorKey) -> Vec<String> {
    let mut lines = vec![format!("current    {}  generation {}", key.current, key.generation)];
    let Some(at) = &key.announced_at else {
        lines.push(format!("next       {}  not announced", key.next));
        lines.push("announce   weft-coordinator coordinator-key announce".to_owned());
        return lines;
    };
    lines.push(format!("next       {}  announced {}", key.next, moment(at)));
    let all = key.heard + key.unheard;
    lines.push(match key.unheard {
        0 => format!("heard by   all {all} active devices"),
        unheard => {
            format!(
                "heard by   {} of {all} active devices; {unheard} not: {}",
                key.heard, key.unheard_names
            )
        }
    });
    if key.unheard_others > 0 {
        lines.push(format!(
            "           {} that wait or are put out have not; they get no map and would have to join anew",
            key.unheard_others
        ));
    }
    lines.push(match key.unheard {
        0 => "switch     sudo systemctl stop weft-coordinator && sudo weft-coordinator \
              coordinator-key switch --recovery-key -"
            .to_owned(),
        _ => "switch     when they were here: a device that has not heard has to join anew"
            .to_owned(),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(announced: bool, heard: u32, unheard: u32) -> api::CoordinatorKey {
        api::CoordinatorKey {
            generation: 1,
            current: "BKDL-AME4-GXHL-EGZ3".to_owned(),
            next: "XMUG-3JSC-LGSF-7XZL".to_owned(),
            announced_at: announced.then(|| "2026-11-27T16:00:00Z".to_owned()),
            heard,
            unheard,
            unheard_names: "gw-a, gw-b".to_owned(),
            unheard_others: 1,
        }
    }

    #[test]
    fn says_who_has_not_heard() {
        let silent = lines(&key(false, 0, 0));
        assert_eq!(silent[1], "next       XMUG-3JSC-LGSF-7XZL  not announced");
        let some = lines(&key(true, 3, 2));
        assert_eq!(some[2], "heard by   3 of 5 active devices; 2 not: gw-a, gw-b");
        assert!(some[4].contains("has to join anew"), "{some:?}");
        let all = lines(&key(true, 5, 0));
        assert_eq!(all[2], "heard by   all 5 active devices");
        assert!(all[4].contains("coordinator-key switch"), "{all:?}");
    }
}
