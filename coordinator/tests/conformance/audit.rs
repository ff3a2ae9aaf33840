//! Every control action leaves a row, and the rows are chained.

use weft_coordinator::domain::audit::{Action, verify};
use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::policy::Policy;
use weft_coordinator::store::Store;
use weft_wire::id::OrganisationId;

use crate::common::fleet::{NETWORK, NOW, by, enrol, key, new_key, wireguard};

const ORGANISATION: OrganisationId = OrganisationId(1);

pub(crate) async fn every_action_leaves_a_row(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let device = enrol(store, key.id, "gw-a").await;
    store.add_wireguard(wireguard("phone"), by(NOW)).await.unwrap();
    let reason = "stolen \"twice\"\n".to_owned();
    for decision in [
        Decision::Block { reason },
        Decision::Unblock,
        Decision::Rename { name: "gw-b".to_owned() },
    ] {
        store.decide(device.id, decision, None, by(NOW)).await.unwrap();
    }
    store.new_command(device.id, "restart", by(NOW)).await.unwrap();
    store.set_policy(NETWORK, Policy { rules: Vec::new() }, None, by(NOW)).await.unwrap();
    store.set_servers(vec!["192.0.2.1:7420".parse().unwrap()], by(NOW)).await.unwrap();
    store.decide(device.id, Decision::Delete, None, by(NOW)).await.unwrap();
    store.revoke_key(key.id, false, by(NOW)).await.unwrap();
    let note =
        Action { action: "device.clone", subject: device.id.to_string(), detail: Vec::new() };
    store.record(ORGANISATION, note, by(NOW)).await.unwrap();
    // Refused and repeated calls leave none.
    store.decide(device.id, Decision::Approve, None, by(NOW)).await.unwrap_err();
    store.set_servers(vec!["192.0.2.1:7420".parse().unwrap()], by(NOW)).await.unwrap();
    store.revoke_key(key.id, false, by(NOW)).await.unwrap();

    let rows = store.audit(ORGANISATION, 0, 100).await.unwrap();
    let actions: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "network.create",
            "key.create",
            "device.enrol",
            "device.add-wireguard",
            "device.block",
            "device.unblock",
            "device.rename",
            "device.command",
            "policy.set",
            "network.servers",
            "device.delete",
            "key.revoke",
            "device.clone",
        ]
    );
    let last = rows.last().unwrap();
    assert_eq!(verify((0, [0; 32]), &rows), Ok((last.seq, last.hash)));
    assert_eq!(store.audit(ORGANISATION, 4, 2).await.unwrap(), rows[4..6]);
}
