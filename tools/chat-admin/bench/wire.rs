//! Lanes over the wire protocol: one connection, pipelined.

use super::Lane;
use anyhow::{Context, bail};
use chat::limits::WIRE_FRAME_BYTES_MAX;
use chat::wire::codec::{Body, Cut, Lines, Private, Reply, Request, RequestId, v2};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// For every reply that comes a new send goes, several in one write as several came in one read.
pub async fn pipelined(lane: Lane) -> anyhow::Result<()> {
    let address = lane.wire_address.clone().context(
        "the replica's wire address is not known: name the cluster by --cluster, or leave it to \
         the bench to start one",
    )?;
    let mut socket = TcpStream::connect(&address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    let mut lines = Lines::new(WIRE_FRAME_BYTES_MAX);
    let mut sender = Sender {
        number: 0,
        sent: VecDeque::with_capacity(lane.in_flight),
        lane,
        frames: Vec::new(),
    };
    let mut count = sender.lane.in_flight;
    loop {
        sender.frames.clear();
        for _ in 0..std::mem::take(&mut count) {
            sender.send()?;
        }
        socket.write_all(&sender.frames).await?;
        if socket.read_buf(lines.buffer()).await? == 0 {
            bail!("the server closed the connection");
        }
        loop {
            match lines.next_frame() {
                Cut::Frame(line) => sender.on_reply(&line)?,
                Cut::TooLong => bail!("a reply without end"),
                Cut::Incomplete => break,
            }
            count += 1;
        }
    }
}

struct Sender {
    lane: Lane,
    number: usize,
    /// When, of those without a reply, oldest first.
    sent: VecDeque<Instant>,
    frames: Vec<u8>,
}

impl Sender {
    fn send(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        let login = &self.lane.logins[self.number % self.lane.logins.len()];
        let recipients = &self.lane.recipients;
        let id = login.request_id();
        let request_id = RequestId {
            client_id: id.client_id[..]
                .try_into()
                .context("a client id's length")?,
            sequence: id.sequence,
        };
        let send = v2::SendMessage {
            token: Private(login.token.clone()),
            // Another step than the senders', so that everybody writes to everybody.
            recipient: recipients[self.number * 7 % recipients.len()].clone(),
            body: Body(self.lane.body.to_vec()),
            content_type: String::new(),
            request_id: Some(request_id),
        };
        self.sent.push_back(Instant::now());
        Request::V2(v2::Request::SendMessage(send)).encode(&mut self.frames);
        Ok(())
    }

    fn on_reply(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let reply = Reply::decode(line).map_err(|broken| anyhow::anyhow!("{broken}"))?;
        let Reply::V2(_, answer) = reply else {
            bail!("a reply to something else: {reply:?}");
        };
        let Some(sent) = self.sent.pop_front() else {
            bail!("a reply too many");
        };
        match answer.outcome {
            Ok(_) => self.lane.meter.acknowledged(sent),
            Err(failure) => self.lane.meter.refused(&failure.reason),
        }
        Ok(())
    }
}
