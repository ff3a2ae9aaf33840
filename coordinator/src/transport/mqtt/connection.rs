//! One TCP connection that began with MQTT: the shell around [`Session`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use weft_wire::id::Inbox;

use super::Broker;
use super::codec::{self, Codec};
use super::connect::{self, Admission};
use super::hub::{Attachment, EnrolmentPlace, Link};
use super::packet::{
    Connect, ConnectCode, FrameError, In, Kind, Level, MAX_CONNECT, MAX_PACKET, Out, Qos, frame,
};
use super::session::{Close, Down, FILTERS, Session, Verdict};
use super::stats::{Early, Stats};
use crate::service::bus::{Carrier, Class, Inbound, Uplink};
use crate::transport::listen::Waiting;

/// How long a client may take to accept what is written to it.
const WRITE: Duration = Duration::from_secs(10);
/// How long a last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Bytes of the read buffer of an idle connection; it grows to one packet.
const READ_BUFFER: usize = 256;
/// A write buffer beyond this is given back after use.
const WRITE_BUFFER: usize = 1_024;

/// Serves a connection until it ends.
pub(super) async fn serve<S>(
    broker: Arc<Broker>,
    mut stream: S,
    address: IpAddr,
    waiting: Waiting,
    deadline: Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _watch = PanicWatch(&broker.stats);
    let mut input = BytesMut::with_capacity(READ_BUFFER);
    // Gone before the long part of the line's life begins.
    let admitting = Box::pin(admit(&broker, &mut stream, &mut input, &waiting, deadline));
    let admitted = match admitting.await {
        Ok(admitted) => admitted,
        Err(early) => {
            broker.stats.early(early).add();
            tracing::debug!(%address, reason = ?early, "mqtt.refused");
            return;
        }
    };
    // From here the client is known and counts among those, no longer among
    // the strangers of its address.
    let Some(_counted) = waiting.admit() else {
        broker.stats.early(Early::Full).add();
        admitted.refuse(&mut stream, ConnectCode::Busy).await;
        return;
    };
    let Admission { inbox, class, keep_alive_s, .. } = admitted.admission;
    // MQTT 5 alone can say so.
    let sooner = admitted.level == Level::V5 && keep_alive_s > broker.ping_s;
    let promised = sooner.then_some(broker.ping_s);
    let keep_alive_s = promised.unwrap_or(keep_alive_s);
    let admission = Admission { keep_alive_s, ..admitted.admission };
    let Some((present, link)) = Present::new(&broker, inbox, class) else {
        broker.stats.early(Early::InboxTaken).add();
        admitted.refuse(&mut stream, ConnectCode::ClientId).await;
        return;
    };
    broker.stats.admitted.add();
    let mut connection = Connection {
        broker: &broker,
        stream,
        address,
        class,
        level: admitted.level,
        session: Session::new(&admission, admitted.level, Instant::now().into_std()),
        inbox,
        link,
        input,
        output: BytesMut::new(),
    };
    connection.put(&promised.map_or(Out::ConnAck(ConnectCode::Success), Out::Admitted));
    let why = connection.run().await;
    connection.end(why).await;
    broker.stats.closed(why).add();
    tracing::debug!(%address, inbox = %present.inbox, reason = ?why, "mqtt.ended");
}

/// Counts a task that panics; everything else of it is cleaned up by the drops
/// of what it held.
struct PanicWatch<'a>(&'a Stats);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.add();
        }
    }
}

/// The connection's place in the hub; tells the service when the inbox is left
/// without a connection, however the task ended.
struct Present {
    inbox: Inbox,
    attachment: Option<Attachment>,
    inbound: Arc<dyn Inbound>,
}

impl Present {
    /// `None` = the inbox is another's.
    fn new(broker: &Broker, inbox: Inbox, class: Class) -> Option<(Self, Arc<Link>)> {
        let attachment = broker.hub.attach(inbox, class)?;
        let link = attachment.link();
        let inbound = Arc::clone(&broker.inbound);
        Some((Self { inbox, attachment: Some(attachment), inbound }, link))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if self.attachment.take().is_some_and(Attachment::detach) {
            self.inbound.handle_gone(self.inbox);
        }
    }
}

/// A client whose CONNECT was admitted and not answered yet.
struct Admitted {
    admission: Admission,
    level: Level,
    _place: Option<EnrolmentPlace>,
}

impl Admitted {
    async fn refuse(&self, stream: &mut (impl AsyncWrite + Unpin), code: ConnectCode) {
        refuse(stream, self.level, code).await;
    }
}

/// A refused client is told once and not waited for.
async fn refuse(stream: &mut (impl AsyncWrite + Unpin), level: Level, code: ConnectCode) {
    let mut output = BytesMut::new();
    codec::for_level(level).encode(&Out::ConnAck(code), &mut output);
    let told = timeout(LAST_WORD, async {
        stream.write_all(&output).await?;
        stream.shutdown().await
    });
    if !matches!(told.await, Ok(Ok(()))) {
        tracing::trace!("mqtt.unheard");
    }
}

/// Reads the CONNECT and judges it.
async fn admit<S>(
    broker: &Broker,
    stream: &mut S,
    input: &mut BytesMut,
    waiting: &Waiting,
    deadline: Instant,
) -> Result<Admitted, Early>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let read = async {
        // Whose CONNECT is here already waited for this process: it is read.
        tokio::select! {
            biased;
            read = read_connect(stream, input) => read,
            () = waiting.cut() => Err(Early::Crowded),
        }
    };
    let (connect, level) = timeout_at(deadline, read).await.unwrap_or(Err(Early::Deadline))?;
    let now_s = broker.clock.unix_ms() / 1_000;
    let admission = match connect::verdict(&connect, &*broker.passwords, now_s) {
        Ok(admission) => admission,
        Err(refusal) => {
            refuse(stream, level, refusal.code()).await;
            return Err(Early::Refused(refusal));
        }
    };
    let place = match admission.class {
        Class::Enrolling(key) => {
            let place = broker.hub.enrol(key);
            if place.is_none() {
                refuse(stream, level, ConnectCode::Busy).await;
                return Err(Early::EnrolmentFull);
            }
            place
        }
        Class::Device | Class::Unknown => None,
    };
    Ok(Admitted { admission, level, _place: place })
}

async fn read_connect(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<(Box<Connect>, Level), Early> {
    let whole = loop {
        match frame(input, MAX_CONNECT) {
            Ok(Some((Kind::Connect, whole))) if input.len() >= whole => break whole,
            Ok(Some((Kind::Connect, whole))) => input.reserve(whole - input.len()),
            Ok(Some(_)) | Err(_) => return Err(Early::NotConnect),
            Ok(None) => {}
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return Err(Early::Lost),
            Ok(_) => {}
        }
    };
    let packet = input.split_to(whole);
    let level = codec::level(&packet).ok_or(Early::Level)?;
    match codec::for_level(level).decode(Kind::Connect, packet) {
        Ok(In::Connect(connect)) => Ok((connect, level)),
        _ => Err(Early::Malformed),
    }
}

struct Connection<'a, S> {
    broker: &'a Broker,
    stream: S,
    address: IpAddr,
    class: Class,
    level: Level,
    session: Session,
    inbox: Inbox,
    link: Arc<Link>,
    input: BytesMut,
    output: BytesMut,
}

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn codec(&self) -> &'static dyn Codec {
        codec::for_level(self.level)
    }

    fn put(&mut self, packet: &Out<'_>) {
        self.codec().encode(packet, &mut self.output);
    }

    async fn run(&mut self) -> Close {
        match self.serve().await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Close> {
        let alarm = sleep_until(Instant::now());
        tokio::pin!(alarm);
        loop {
            self.handle_input().await?;
            self.handle_queue().await?;
            self.flush().await?;
            self.shrink();
            let readable_at = Instant::from_std(self.session.readable_at());
            let may_read = readable_at <= Instant::now();
            let (mut wake_at, _) = self.session.poll_timeout();
            if !may_read {
                wake_at = wake_at.min(readable_at.into_std());
            }
            // Lazily: an alarm that is too early costs one turn of this loop.
            let wake_at = Instant::from_std(wake_at);
            if alarm.is_elapsed() || wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            if self.input.capacity() == self.input.len() {
                self.input.reserve(READ_BUFFER);
            }
            tokio::select! {
                () = self.link.changed() => {}
                read = self.stream.read_buf(&mut self.input), if may_read => match read {
                    Ok(0) | Err(_) => return Err(Close::Lost),
                    Ok(len) => self.session.handle_bytes(len, Instant::now().into_std()),
                },
                () = &mut alarm => self.handle_alarm()?,
            }
            match self.link.closed() {
                None => {}
                Some(Close::Ended) => {
                    // What was said before the end is to be heard.
                    self.handle_queue().await?;
                    self.flush().await?;
                    return Err(Close::Ended);
                }
                Some(Close::TakenOver) => {
                    self.handle_rest().await?;
                    return Err(Close::TakenOver);
                }
                Some(why) => return Err(why),
            }
        }
    }

    /// A device says a last word, such as that it will restart, and is back at
    /// once: what had come before its next connection took over is handled, as
    /// far as one read and the client's bucket go.
    async fn handle_rest(&mut self) -> Result<(), Close> {
        if self.session.readable_at() <= Instant::now().into_std() {
            self.input.reserve(READ_BUFFER);
            // Not waited for: what is not here now came too late.
            let read = timeout(Duration::ZERO, self.stream.read_buf(&mut self.input)).await;
            if let Ok(Ok(len)) = read {
                self.session.handle_bytes(len, Instant::now().into_std());
            }
        }
        self.handle_input().await
    }

    fn handle_alarm(&self) -> Result<(), Close> {
        let (at, why) = self.session.poll_timeout();
        if at <= Instant::now().into_std() { Err(why) } else { Ok(()) }
    }

    /// Handles the whole packets that were read, as fast as the client's bucket
    /// allows.
    async fn handle_input(&mut self) -> Result<(), Close> {
        loop {
            let now = Instant::now().into_std();
            if self.session.readable_at() > now {
                return Ok(());
            }
            let (kind, whole) = match frame(&self.input, MAX_PACKET) {
                Ok(Some(framed)) => framed,
                Ok(None) => return Ok(()),
                Err(FrameError::Kind) => return Err(Close::Kind),
                Err(FrameError::Length) => return Err(Close::Malformed),
                Err(FrameError::TooLong) => return Err(Close::TooLong),
            };
            if self.input.len() < whole {
                self.input.reserve(whole - self.input.len());
                return Ok(());
            }
            let packet = self.input.split_to(whole);
            let packet = self.codec().decode(kind, packet).map_err(|_| Close::Malformed)?;
            let verdict = self.session.handle_packet(packet, now);
            self.obey(verdict).await?;
        }
    }

    async fn obey(&mut self, verdict: Verdict) -> Result<(), Close> {
        match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Close(why) => Err(why),
            Verdict::Pong => {
                self.put(&Out::PingResp);
                Ok(())
            }
            Verdict::Subscribed { id, granted, filters } => {
                let granted = [granted; FILTERS];
                let granted: &[Qos] = granted.get(..filters).unwrap_or(&granted);
                self.put(&Out::SubAck { id, granted });
                Ok(())
            }
            Verdict::Up { frame, acknowledge } => self.up(frame, acknowledge).await,
        }
    }

    async fn up(&mut self, frame: Bytes, acknowledge: Option<u16>) -> Result<(), Close> {
        self.broker.stats.up.add();
        // Nothing that is due waits for the service.
        self.flush().await?;
        let answer = self
            .broker
            .inbound
            .handle_uplink(Uplink {
                inbox: self.inbox,
                class: self.class,
                carrier: Carrier::Mqtt,
                address: Some(self.address),
                frame: &frame,
            })
            .await;
        if answer.authentic {
            self.session.handle_authentic();
        }
        if let Some(id) = acknowledge {
            self.put(&Out::PubAck(id));
        }
        for frame in answer.frames {
            self.down(frame);
            if self.output.len() >= MAX_PACKET {
                self.flush().await?;
            }
        }
        self.flush().await?;
        if answer.close { Err(Close::Ended) } else { Ok(()) }
    }

    /// Writes one frame to the client, or lets it wait for a PUBACK.
    fn down(&mut self, frame: Bytes) {
        match self.session.handle_down(frame.len()) {
            Down::Send(id) => {
                let topic = self.session.down_topic();
                self.put(&Out::Publish { topic: &topic, id, payload: &frame });
                self.broker.stats.down.add();
            }
            Down::Hold | Down::NotSubscribed => self.broker.hub.queue(&self.link, frame),
            Down::TooLong => self.broker.stats.undeliverable.add(),
        }
    }

    /// Writes what waits in the queue, as far as the client's window allows.
    /// Before its SUBSCRIBE everything waits: it is on its way to hear it.
    async fn handle_queue(&mut self) -> Result<(), Close> {
        while let Some(len) = self.link.next_len() {
            let down = self.session.handle_down(len);
            if matches!(down, Down::Hold | Down::NotSubscribed) {
                break;
            }
            let Some(frame) = self.link.take() else { break };
            if let Down::Send(id) = down {
                let topic = self.session.down_topic();
                self.put(&Out::Publish { topic: &topic, id, payload: &frame });
                self.broker.stats.down.add();
            } else {
                self.broker.stats.undeliverable.add();
            }
            if self.output.len() >= MAX_PACKET {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Close> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = timeout(WRITE, async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        });
        match written.await {
            Err(_) => return Err(Close::SlowReader),
            Ok(Err(_)) => return Err(Close::Lost),
            Ok(Ok(())) => self.output.clear(),
        }
        if self.output.capacity() > WRITE_BUFFER {
            self.output = BytesMut::new();
        }
        Ok(())
    }

    /// Gives a grown read buffer back.
    fn shrink(&mut self) {
        if self.input.is_empty() && self.input.capacity() > READ_BUFFER {
            self.input = BytesMut::new();
        }
    }

    /// Tells an MQTT 5 client why, if it still listens.
    async fn end(&mut self, why: Close) {
        let Some(code) = why.code() else { return };
        self.put(&Out::Disconnect(code));
        let told = timeout(LAST_WORD, async {
            self.stream.write_all(&self.output).await?;
            self.stream.shutdown().await
        });
        if !matches!(told.await, Ok(Ok(()))) {
            tracing::trace!(inbox = %self.inbox, "mqtt.unheard");
        }
    }
}
