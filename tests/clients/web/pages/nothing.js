// Olm is loaded by Hydrogen itself, as a script.
