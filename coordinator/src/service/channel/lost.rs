//! Devices that a restored backup does not know.
//!
//! Such a device holds a PSK that only this coordinator can have given it, so it
//! was taken in once. It is told that its row is lost, and may register again
//! without an enrolment key; an operator decides whether it is a member. One that
//! holds a map of this life of the database has no row because it was deleted or
//! has left, and is nobody.

use weft_noise::mac;
use weft_wire::frame::Hello;
use weft_wire::id::{PublicKey, Secret};
use weft_wire::item::{Item as _, ItemError, RawItem, Register, Returning};

use super::hello::Claimed;
use super::record::Context;
use super::{Channel, FrameDrop};
use crate::store::Known;

impl Channel {
    pub(super) async fn lost_device(
        &self,
        hello: &Hello<'_>,
        identity: &PublicKey,
    ) -> Result<(Claimed, Secret), FrameDrop> {
        let known = self.store.known(mac::fingerprint(identity)).await.map_err(|error| {
            self.quiet.store_failed("tombstone", &error);
            FrameDrop::Store
        })?;
        if matches!(known, Some(Known::Tombstone(_))) {
            return Err(FrameDrop::UnknownDevice);
        }
        let master = hello.selector().master;
        let psk = self.secrets.device_psk(identity, master).ok_or(FrameDrop::UnknownMaster)?;
        Ok((Claimed::Lost, psk))
    }

    pub(super) async fn handle_lost(
        &self,
        item: &RawItem<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ItemError> {
        match item.tag {
            Returning::TAG => context.returning = Some(item.decode()?),
            Register::TAG => {
                let register: Register = item.decode()?;
                let from = context.uplink.address.map(|address| address.to_string());
                let identity = context.entry.agreed.identity;
                let expiry = self.password_expiry();
                let Some(returning) = context.returning.take() else { return Ok(()) };
                let enrol = &self.enrol;
                match enrol.adopt(register, &returning, identity, from, expiry, self.now()).await {
                    Ok(registered) => context.answer(&*registered),
                    Err(refused) => context.answer(&refused),
                }
            }
            // What a member says of itself before it has read that it is none.
            _ => {}
        }
        Ok(())
    }
}
