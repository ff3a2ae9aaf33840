//! What devices' bytes were for.

use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::usage::{DayUsage, Growth, KEPT_DAYS};
use weft_coordinator::store::Store;
use weft_wire::id::DeviceId;

use crate::common::fleet::{NOW, by, enrol, key, new_key};

fn usage(device: DeviceId, day: u32, bytes: u64) -> DayUsage {
    DayUsage {
        device,
        day,
        at: NOW,
        control: bytes,
        keepalive: 4_032,
        probe: 5_059,
        relay_overhead: 7,
        payload: 1 << 40,
        budget: Some(1_000_000),
        metered: true,
        used_up: false,
    }
}

/// A day is as it was said last, and never less.
pub(crate) async fn days_are_kept(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await.id;
    let b = enrol(store, key.id, "gw-b").await.id;
    let first = store.report_usage(usage(a, 100, 9_000)).await.unwrap();
    assert_eq!(first, Growth([9_000, 4_032, 5_059, 7, 1 << 40]));
    store.report_usage(usage(b, 100, 1)).await.unwrap();
    assert_eq!(store.used_up_on(100).await.unwrap(), 0);
    let more = DayUsage { used_up: true, budget: None, ..usage(a, 100, 9_120) };
    let growth = store.report_usage(more.clone()).await.unwrap();
    assert_eq!(growth, Growth([120, 0, 0, 0, 0]), "a byte is new once");
    assert_eq!(store.usage_of(a).await.unwrap(), std::slice::from_ref(&more));
    // A power cut took what was counted since the last write.
    assert_eq!((store.used_up_on(100).await.unwrap(), store.used_up_on(99).await.unwrap()), (1, 0));
    let less = DayUsage { payload: 5, keepalive: 4_033, ..usage(a, 100, 8_000) };
    let growth = store.report_usage(less).await.unwrap();
    assert_eq!(growth, Growth([0, 1, 0, 0, 0]));
    let least = DayUsage { payload: 5, ..usage(a, 100, 8_000) };
    assert_eq!(store.report_usage(least).await.unwrap(), Growth::default());
    let kept = DayUsage { keepalive: 4_033, ..usage(a, 100, 9_120) };
    assert_eq!(store.usage_of(a).await.unwrap(), std::slice::from_ref(&kept));
    store.report_usage(usage(a, 101, 3)).await.unwrap();
    assert_eq!(store.usage_of(a).await.unwrap(), [usage(a, 101, 3), kept.clone()]);
    assert_eq!(store.usage_on(100).await.unwrap(), [kept, usage(b, 100, 1)]);
    // No number is too large for a database.
    let huge = DayUsage { payload: u64::MAX, ..usage(b, 102, 1) };
    store.report_usage(huge).await.unwrap();
    assert_eq!(store.usage_on(102).await.unwrap()[0].payload, i64::MAX as u64);
}

/// They go one by one, and with their device.
pub(crate) async fn days_are_bounded(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await.id;
    let b = enrol(store, key.id, "gw-b").await.id;
    store.report_usage(usage(b, 1, 1)).await.unwrap();
    for day in 1..=KEPT_DAYS + 3 {
        store.report_usage(usage(a, day, day.into())).await.unwrap();
    }
    let days: Vec<_> = store.usage_of(a).await.unwrap().iter().map(|one| one.day).collect();
    assert_eq!(days, (4..=KEPT_DAYS + 3).rev().collect::<Vec<_>>());
    store.decide(a, Decision::Delete, None, by(NOW)).await.unwrap();
    assert!(store.usage_of(a).await.unwrap().is_empty());
    // What comes late of a device that is gone changes nothing.
    assert_eq!(store.report_usage(usage(a, 9, 1)).await.unwrap(), Growth::default());
    assert!(store.usage_of(a).await.unwrap().is_empty());
    assert_eq!(store.usage_of(b).await.unwrap().len(), 1);
}
