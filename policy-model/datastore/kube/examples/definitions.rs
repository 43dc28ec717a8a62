//! Writes the definitions of our kinds where the chart has them: `cargo run -p policy-model-datastore-kube --example
//! definitions`, or with `--plain` to standard output, for `kubectl apply --server-side -f -`.

use policy_model_datastore_kube::schema::{self, CUSTOM_KINDS};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("--plain") {
        for kind in CUSTOM_KINDS {
            println!("---\n{}", serde_norway::to_string(&schema::definition(kind))?);
        }
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../charts/manx/templates/crds");
    std::fs::create_dir_all(&folder)?;
    for kind in CUSTOM_KINDS {
        let text = serde_norway::to_string(&schema::definition(kind))?;
        std::fs::write(folder.join(schema::template_name(kind)), schema::template(&text))?;
    }
    Ok(())
}
