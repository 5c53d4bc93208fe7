//! What each subcommand does.

use crate::Failure;
use crate::args::{Args, Command, SessionsCommand};
use crate::input;
use crate::output::Printer;
use crate::profile::Profile;
use chat::client::{Class, Client, Cluster, Event, Listen, NewAccount, Options};
use clap::CommandFactory;
use std::io::Write;
use std::time::Duration;

/// Sequences that `send --lines` takes from the profile at once: an fsync of the profile for each
/// message would cost more than the message.
const SEQUENCES_AT_ONCE: u64 = 64;
/// Messages printed before they are acknowledged, while more keep coming.
const ACK_EVERY: u64 = 100;
/// Quiet time after which what was printed is acknowledged.
const ACK_QUIET: Duration = Duration::from_millis(100);

struct Context {
    cluster: Cluster,
    profile: Profile,
    printer: Printer,
}

/// The servers that the command line names.
pub fn cluster(args: &Args) -> Result<Cluster, Failure> {
    let options = Options {
        deadline: args.deadline,
        protocol: args.protocol.into(),
        ..Options::default()
    };
    Cluster::connect_with(&args.server, options).map_err(|error| Failure::Usage(error.message))
}

/// Runs one subcommand.
pub async fn run(args: Args, command: Command) -> Result<(), Failure> {
    let cluster = cluster(&args)?;
    let context = Context {
        cluster,
        profile: Profile::named(&args.profile)?,
        printer: Printer(args.output),
    };
    match command {
        Command::CreateAccount {
            name,
            full_name,
            device,
        } => context.create_account(name, full_name, device).await,
        Command::Login { name, device } => context.login(&name, &device).await,
        Command::Logout => context.logout().await,
        Command::Send {
            recipient,
            text,
            lines,
        } => context.send(&recipient, text, lines).await,
        Command::Listen {
            ack,
            count,
            after,
            timeout,
        } => {
            let end = End { count, timeout };
            context.listen(after, ack, end).await
        }
        Command::List {
            pattern,
            page_size,
            all,
        } => context.list(&pattern, page_size, all).await,
        Command::Sessions { command } => context.sessions(command).await,
        Command::ChangePassword => context.change_password().await,
        Command::DeleteAccount => context.delete_account().await,
        Command::Whoami => context.whoami().await,
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "chat", &mut script);
    write_out(&script)
}

fn man() -> Result<(), Failure> {
    let page = crate::man::page(Args::command()).map_err(Failure::io("cannot make the page"))?;
    write_out(&page)
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(bytes)
        .map_err(Failure::io("cannot write the output"))
}

/// When a listener has heard enough.
#[derive(Clone, Copy)]
struct End {
    count: Option<u64>,
    timeout: Option<Duration>,
}

impl Context {
    /// The login, for one write.
    fn writer(&self) -> Result<Client, Failure> {
        Ok(Client::resume(&self.cluster, self.profile.reserve(1)?)?)
    }

    /// The login, for reads.
    fn reader(&self) -> Result<Client, Failure> {
        Ok(Client::resume(&self.cluster, self.profile.load()?)?)
    }

    async fn create_account(
        &self,
        username: String,
        full_name: String,
        device: String,
    ) -> Result<(), Failure> {
        let account = NewAccount {
            username,
            full_name,
            device,
            password: input::new_password("Password for the new account")?,
        };
        let client = Client::create_account(&self.cluster, account).await?;
        self.keep(&client)
    }

    async fn login(&self, name: &str, device: &str) -> Result<(), Failure> {
        let password = input::password("Password")?;
        let client = Client::login(&self.cluster, name, &password, device).await?;
        self.keep(&client)
    }

    /// Asks nobody: what has succeeded must not fail because the replica dies right after it.
    fn keep(&self, client: &Client) -> Result<(), Failure> {
        let data = client.session().data();
        self.profile.store(&data)?;
        let account = client.account().cloned().unwrap_or_default();
        self.printer.account(&account, &data.device)
    }

    async fn logout(&self) -> Result<(), Failure> {
        match self.writer()?.logout().await {
            Err(error) if error.class() == Class::NotLoggedIn => {
                self.printer.remark("the login had ended already");
            }
            outcome => outcome?,
        }
        self.profile.remove()
    }

    async fn send(
        &self,
        recipient: &str,
        text: Option<String>,
        lines: bool,
    ) -> Result<(), Failure> {
        let text = text.filter(|text| text != "-");
        match (text, lines) {
            (Some(_), true) => Err(Failure::Usage(
                "--lines reads standard input: give no text with it".into(),
            )),
            (None, true) => self.send_lines(recipient).await,
            (text, false) => {
                let body = match text {
                    Some(text) => text.into_bytes(),
                    None => input::body()?,
                };
                let receipt = self.writer()?.send(recipient, body).await?;
                self.printer.sent(&receipt)
            }
        }
    }

    /// One after the other: that keeps their order. Stops at the first that fails.
    async fn send_lines(&self, recipient: &str) -> Result<(), Failure> {
        let mut lines = input::lines();
        let mut sent: u64 = 0;
        let mut client = None;
        while let Some(line) = lines.recv().await {
            let line = line?;
            if line.is_empty() {
                continue;
            }
            if sent.is_multiple_of(SEQUENCES_AT_ONCE) {
                client = None;
            }
            let writer = match client.take() {
                Some(client) => client,
                None => Client::resume(&self.cluster, self.profile.reserve(SEQUENCES_AT_ONCE)?)?,
            };
            let receipt = writer.send(recipient, line).await.inspect_err(|_| {
                self.printer
                    .remark(&format!("{sent} lines were sent before this"));
            })?;
            self.printer.sent(&receipt)?;
            client = Some(writer);
            sent += 1;
        }
        self.printer.remark(&format!("{sent} messages sent"));
        Ok(())
    }

    async fn listen(&self, after: Option<u64>, ack: bool, end: End) -> Result<(), Failure> {
        let reader = self.reader()?;
        let mut acks = Acks {
            context: self,
            wanted: ack,
            printed: None,
            pending: 0,
        };
        let mut heard = 0;
        let mut inbox = reader.listen(Listen {
            after,
            ..Listen::default()
        });
        let stop = async {
            match end.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stop);
        while end.count != Some(heard) {
            let event = tokio::select! {
                event = inbox.next() => event,
                () = &mut stop => break,
                _ = tokio::signal::ctrl_c() => {
                    return acks.send().await;
                }
                () = tokio::time::sleep(ACK_QUIET), if acks.pending > 0 => {
                    acks.send().await?;
                    continue;
                }
            };
            let Some(event) = event else { break };
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    // What was printed is still worth acknowledging; why it ended matters more.
                    let _ = acks.send().await;
                    return Err(error.into());
                }
            };
            self.printer.event(&event)?;
            if let Event::Message(message) = event {
                heard += 1;
                acks.printed(message.inbox_seq).await?;
            }
        }
        acks.send().await?;
        match end.count {
            Some(count) if heard < count => Err(Failure::TimedOut(format!(
                "only {heard} of {count} messages came in time"
            ))),
            _ => Ok(()),
        }
    }

    async fn list(&self, pattern: &str, page_size: u32, all: bool) -> Result<(), Failure> {
        let client = self.reader()?;
        let mut token = String::new();
        loop {
            let page = client.list_accounts(pattern, page_size, &token).await?;
            self.printer.page(&page)?;
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(());
            }
            if !all {
                self.printer.remark("there are more: use --all");
                return Ok(());
            }
        }
    }

    async fn sessions(&self, command: Option<SessionsCommand>) -> Result<(), Failure> {
        match command {
            None => {
                let sessions = self.reader()?.list_sessions().await?;
                self.printer.sessions(&sessions)
            }
            Some(SessionsCommand::Revoke { id }) => Ok(self.writer()?.revoke_session(id).await?),
        }
    }

    async fn change_password(&self) -> Result<(), Failure> {
        self.profile.load()?;
        let old = input::password("Old password")?;
        let new = input::new_password("New password")?;
        Ok(self.writer()?.change_password(&old, &new).await?)
    }

    async fn delete_account(&self) -> Result<(), Failure> {
        let name = self.profile.load()?.username;
        let password = input::password(&format!("Password of {name}, to delete the account"))?;
        self.writer()?.delete_account(&password).await?;
        self.profile.remove()
    }

    async fn whoami(&self) -> Result<(), Failure> {
        let (account, device) = self.reader()?.who_am_i().await?;
        self.printer.account(&account, &device)
    }
}

/// Acknowledges what was printed: in bunches, never before it was printed.
struct Acks<'a> {
    context: &'a Context,
    wanted: bool,
    printed: Option<u64>,
    pending: u64,
}

impl Acks<'_> {
    async fn printed(&mut self, inbox_seq: u64) -> Result<(), Failure> {
        if !self.wanted {
            return Ok(());
        }
        self.printed = Some(inbox_seq);
        self.pending += 1;
        if self.pending >= ACK_EVERY {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        if let (Some(up_to), true) = (self.printed, self.pending > 0) {
            self.context.writer()?.ack(up_to).await?;
            self.pending = 0;
        }
        Ok(())
    }
}
