from pilotfish.console.main import main

main()
