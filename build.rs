//! Compiles the protobuf files without `protoc`: nothing needs installing.

use std::path::{Path, PathBuf};

/// What reflection on the client listener may show.
const CLIENT: [&str; 1] = ["proto/chat/v1/chat.proto"];
/// What never leaves the internal listener and the admin socket.
const INTERNAL: [&str; 2] = ["proto/admin/v1/admin.proto", "proto/peer/v1/peer.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in CLIENT.iter().chain(&INTERNAL) {
        println!("cargo:rerun-if-changed={file}");
    }
    let client = protox::compile(CLIENT, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        Path::new(&out).join("descriptor.bin"),
        prost_bytes(&client),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(client)?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".admin.v1", "crate::proto::admin")
        .compile_fds(protox::compile([INTERNAL[1]], ["proto"])?)?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(protox::compile([INTERNAL[0]], ["proto"])?)?;
    Ok(())
}

fn prost_bytes(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
