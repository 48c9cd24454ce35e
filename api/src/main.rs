//! Prints what a rustdoc JSON file says is public, a line for each item, without what every type has by itself.

fn main() {
    let json = std::env::args().nth(1).expect("the path of a rustdoc JSON file");
    let surface = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()
        .expect("rustdoc JSON of a version that the crate public-api knows");
    for item in surface.items() {
        println!("{item}");
    }
}
